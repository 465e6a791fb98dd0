r"""Mathematical answers, compared by Math-Verify without its timeouts, and only if the response states an answer.

Math-Verify's `parse` takes any number of a text if it finds nothing better, so "I see 5 apples and give up" would pass
for 5. Here the response must state its answer (`answers.py`), and that answer is read as a whole.

Answers too large to be evaluated or compared are recognised by their form (`mathematics/complexity.py`). An answer may
still be hard, and nothing here limits time or memory, because Math-Verify's own timeouts use SIGALRM and work in a main
thread only. So grade the text of a model through `VerifierPool`.
"""

import itertools
import logging
import re
from functools import lru_cache
from typing import Any

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse
from math_verify.errors import TimeoutException

from ossft_ray.common.verdict import CORRECT, NO_ANSWER, NO_GOLD, TOO_COMPLEX, UNPARSED, WRONG, Verdict
from ossft_ray.verification.answers import announced_answer, conclusion, final_answer
from ossft_ray.verification.kinds.text import TEXT_COMMAND
from ossft_ray.verification.mathematics import reading
from ossft_ray.verification.mathematics.complexity import MAX_CHARACTERS, TooComplex
from ossft_ray.verification.mathematics.equality import equal
from ossft_ray.verification.mathematics.wording import contradict, has_numbers_between_words

reading.install()

# Math-Verify warns that its timeouts are off, but the pool limits the time.
logging.getLogger("math_verify").setLevel(logging.CRITICAL)

_WHOLE = [LatexExtractionConfig()]
_ANNOUNCED = [
    LatexExtractionConfig(try_extract_without_anchor=False, boxed_match_priority=-1),
    ExprExtractionConfig(try_extract_without_anchor=False),
]
_FULL_STOP = re.compile(r"(?<!\.)\s*\.\Z")  # but 0.333... is not 0.333
_TEXT_NUMBER = re.compile(r"\\(?:text|textbf|textit|mathrm|mbox)\s*\{([^{}A-Za-z]*\d[^{}A-Za-z]*)\}")
_BOLD_MATH = re.compile(r"\\(?:mathbf|boldsymbol|bm)\s*\{([^{}]*)\}")
_BINOMIAL = re.compile(r"\\left\(\s*\\begin\{array\}\{[lcr]\}\s*(\w+)\s*\\\\\s*(\w+)\s*\\end\{array\}\s*\\right\)")
_THOUSANDS = re.compile(r"(?<=\d)\\,(?=\d{3}(?!\d))")
_BOLD = re.compile(r"(?<![\w)])\*\*(?=\S)|(?<=\S)\*\*(?![\w(])")  # but 5**2 is a power
# The text after a number that is not the whole answer; m, s, g and h may be units.
_CONTINUES = re.compile(r"\s*(?:\*(?!\*)|[/^=+×÷])|\(|[a-fi-ln-rt-zA-Z](?![a-zA-Z])|\s+or\s+\S*\d")
_ARITHMETIC = re.compile(r"[\d\s.+\-*/^()÷×]*\*\*[\d\s.+\-*/^()÷×]*")
_MONEY = re.compile(r"\$(?=\d[^$]*(?:\$\d|\Z))")  # the dollar of $18, which opens no formula
_EQUALS = re.compile(r"(?<![<>!:\\])=")
_WORD = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{3,}")
_WORDS = re.compile(r"[^\W\d_]+(?:[\s'’-]+[^\W\d_]+)*")


def grade(answer: str, response: str, *, question: str = "") -> Verdict:
    r"""Compare the answer that `response` states with `answer` (LaTeX, a number, or words).

    Texts that differ only in white space, `$`, `\text{}` or a closing full stop are equal. Otherwise Math-Verify
    compares them, and `mathematics/` rejects some of what it accepts. A gold answer that cannot be parsed, or is too
    complex, is compared as text, ignoring case. No text makes this raise, except MemoryError under a memory limit.
    """
    if not answer.strip():
        return Verdict(False, NO_GOLD)
    text = conclusion(response)
    marked = final_answer(text)
    extracted = announced_answer(text) if marked is None else marked
    if extracted is None:
        return Verdict(False, NO_ANSWER)
    if plain_text(extracted) == plain_text(answer):
        return Verdict(True, CORRECT, extracted)
    gold_expressions = _read_gold(answer)
    is_sentence = marked is None and _is_sentence(extracted)
    try:
        if marked is not None:
            predictions = _read_whole(extracted)
        else:
            predictions = _read_sentence(extracted) if is_sentence else _read_whole(_last_of_chain(extracted))
    except TooComplex:
        return Verdict(False, TOO_COMPLEX, extracted)
    if not gold_expressions:
        same = plain_text(extracted).casefold() == plain_text(answer).casefold()
        return Verdict(same, CORRECT if same else WRONG, extracted)
    if not predictions:
        return Verdict(False, UNPARSED, extracted)
    correct = any(equal(gold, prediction) for gold, prediction in itertools.product(gold_expressions, predictions))
    if correct and not is_sentence:
        correct = not contradict(" ".join(answer.split()), " ".join(extracted.split()))
    return Verdict(correct, CORRECT if correct else WRONG, extracted)


def check_answer(answer: str, *, question: str = "") -> Verdict:
    """Check that a gold answer can be compared with: it is mathematics that equals itself, or plain words."""
    if not answer.strip():
        return Verdict(False, NO_GOLD)
    try:
        expressions = _read_whole(answer)
    except TooComplex:
        return Verdict(False, TOO_COMPLEX, answer)
    if not expressions:
        is_text = _WORDS.fullmatch(plain_text(answer)) is not None
        return Verdict(is_text, CORRECT if is_text else UNPARSED, answer)
    same = all(equal(expression, expression) for expression in expressions)
    return Verdict(same, CORRECT if same else WRONG, answer)


def plain_text(answer: str) -> str:
    r"""Remove what never changes an answer: outer and repeated white space, `$`, `\text{}`, a closing full stop.

    >>> plain_text(r" $\text{Evelyn}$.")
    'Evelyn'
    """
    # A space replaces each command, so that "2\text{3}" does not become 23.
    words = TEXT_COMMAND.sub(r" \1 ", answer.replace(r"\$", " ").replace("$", " "))
    return _FULL_STOP.sub("", " ".join(words.split()))


@lru_cache(maxsize=4096)
def _read_gold(answer: str) -> tuple[Any, ...]:
    """Parse a gold answer, once for all the responses to a problem; empty if it cannot be parsed."""
    try:
        return tuple(_read_whole(answer))
    except TooComplex:
        return ()


def _read_whole(answer: str) -> list[Any]:
    """Parse the answer as one piece of LaTeX. If that fails, no number is picked out of it.

    Raises:
        TooComplex: the answer is too large to be evaluated or compared.
    """
    single_line = _FULL_STOP.sub("", " ".join(answer.split()))
    if len(single_line) > MAX_CHARACTERS:  # before any pattern is tried on it
        raise TooComplex
    # Math-Verify drops bold parts, and misreads a number in \text{} as a symbol and a binomial in an array as a matrix.
    single_line = _BOLD_MATH.sub(lambda match: match[1].replace(" ", "").rstrip(".,"), single_line)
    single_line = _BINOMIAL.sub(r"\\binom{\1}{\2}", _TEXT_NUMBER.sub(r"\1", single_line))
    single_line = _THOUSANDS.sub("", single_line).replace(r"\varnothing", r"\emptyset")
    if has_numbers_between_words(single_line):
        return []
    if "$" not in single_line.replace(r"\$", ""):
        single_line = f"${single_line}$"
    return _expressions(_parse(single_line, _WHOLE))


def _last_of_chain(text: str) -> str:
    """Return the C of "the answer is A = B = C", and any other text as is."""
    parts = _EQUALS.split(text)
    is_chain = len(parts) > 2 and "," not in text and ";" not in text
    return parts[-1] if is_chain else text


def _is_sentence(announced: str) -> bool:
    """Whether an announcement has words besides a formula, or is arithmetic in Python's notation (`5**2`)."""
    return bool(_WORD.search(TEXT_COMMAND.sub("", announced))) or _ARITHMETIC.fullmatch(announced) is not None


def _read_sentence(sentence: str) -> list[Any]:
    """Parse the expression at the start of a sentence after "the answer is": "5 apples, since ..." is 5."""
    text = f"answer is {_BOLD.sub('', _MONEY.sub('', sentence))}"
    found = _parse(text, _ANNOUNCED)
    wording = next((item for item in found if isinstance(item, str)), None)
    place = text.rfind(wording) if wording else -1
    if wording and place >= 0 and _CONTINUES.match(text, place + len(wording)):
        return []
    return _expressions(found)


def _parse(text: str, targets: list[Any]) -> list[Any]:
    try:
        return list(parse(text, targets, extraction_mode="first_match", parsing_timeout=None, raise_on_error=True))
    except MemoryError:
        raise
    except (Exception, TimeoutException):
        return []


def _expressions(found: list[Any]) -> list[Any]:
    """Drop the strings: Math-Verify appends the text of its first match to the parsed expressions."""
    return [item for item in found if not isinstance(item, str)]
