"""Text answers, compared with a gold answer and its aliases as question-answering benchmarks do.

A gold answer is a text, or a JSON list of texts of which any one is correct. As in the evaluations of SQuAD and
TriviaQA, case, punctuation, a leading article, white space and Unicode's compatibility forms (NFKC) are ignored.
Unlike them, this kind keeps characters that tell numbers or names apart: 3.5 is not 35, -5 is not 5, and C# is not C.
"""

import json
import re

from ossft_ray.common.verdict import CORRECT, NO_ANSWER, NO_GOLD, TOO_COMPLEX, WRONG, Verdict
from ossft_ray.verification.answers import gold_answer, stated_answer
from ossft_ray.verification.normalisation import plain_characters

MAX_CHARACTERS = 10_000  # of a text that is compared

TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|mathrm|mbox)\s*\{([^{}]*)\}")
_PUNCTUATION = re.compile(r"[.,:](?!\d)|(?<=[^\W\d])[-–](?=\w)|[;!?'\"“”‘’`…()\[\]{}*_—]|(?<!\d)/|/(?!\d)")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_DELIMITER = re.compile(r"\\[\[\]()]|(?<!\\)\$(?!\s*\d)|\*\*")
_ARTICLE = re.compile(r"\W*\b(?:a|an|the)\s+(?=\S)", re.IGNORECASE)


def grade(
    answer: str,
    response: str,
    *,
    question: str = "",
    ignore_case: bool = True,
    ignore_punctuation: bool = True,
    ignore_articles: bool = True,
) -> Verdict:
    """Compare the text that `response` states with `answer`, or with each of its aliases."""
    ignore = ignore_case, ignore_punctuation, ignore_articles
    answer = gold_answer(answer)
    if len(answer) > MAX_CHARACTERS:
        return Verdict(False, TOO_COMPLEX)
    wanted = {normalise_text(alias, *ignore) for alias in aliases(answer)} - {""}
    if not wanted:
        return Verdict(False, NO_GOLD)
    extracted = stated_answer(response)
    if extracted is None:
        return Verdict(False, NO_ANSWER)
    if len(extracted) > MAX_CHARACTERS:
        return Verdict(False, TOO_COMPLEX, extracted)
    correct = normalise_text(extracted, *ignore) in wanted
    return Verdict(correct, CORRECT if correct else WRONG, extracted)


def check_answer(answer: str, *, question: str = "", **settings: bool) -> Verdict:
    """Check that a gold answer still has text after normalisation."""
    answer = gold_answer(answer)
    if len(answer) > MAX_CHARACTERS:
        return Verdict(False, TOO_COMPLEX, answer)
    known = any(normalise_text(alias, **settings) for alias in aliases(answer))
    return Verdict(known, CORRECT if known else NO_GOLD, answer if known else None)


def aliases(answer: str) -> list[str]:
    """Return the texts that a gold answer accepts.

    >>> aliases('["USA", "United States"]'), aliases("[sic]")
    (['USA', 'United States'], ['[sic]'])
    """
    if answer.lstrip().startswith("["):
        try:
            values = json.loads(answer)
        except (ValueError, RecursionError):
            return [answer]
        if isinstance(values, list) and all(isinstance(value, str) for value in values):
            return values
    return [answer]


def normalise_text(
    text: str, ignore_case: bool = True, ignore_punctuation: bool = True, ignore_articles: bool = True
) -> str:
    r"""Remove the differences between texts that count as the same.

    >>> normalise_text(r"\text{The  U.S.}")
    'us'
    """
    text = plain_characters(TEXT_COMMAND.sub(r" \1 ", text))
    text = _THOUSANDS.sub(lambda number: number[0].replace(",", ""), _DELIMITER.sub(" ", text))
    if ignore_articles:
        text = _ARTICLE.sub("", text, count=1) if _ARTICLE.match(text) else text
    if ignore_case:
        text = text.casefold()
    if ignore_punctuation:
        text = _PUNCTUATION.sub(lambda mark: " " if mark[0] in "-–—/" else "", text)
    return " ".join(text.split())
