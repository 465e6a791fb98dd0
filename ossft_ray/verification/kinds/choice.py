r"""Multiple choice: the chosen option is compared by its letter or by its text, which is read from the question.

The gold answer is a letter (`B`, `(B)`, `\text{(B)}`) or the text of an option. A response may state either too: `B`,
`(B) seven`, `\textbf{(B)}\ 7`, `seven`. A text counts only if the question's options are found and exactly one of them
is that text.
"""

import re

from ossft_ray.common.verdict import CORRECT, NO_ANSWER, NO_GOLD, TOO_COMPLEX, UNPARSED, WRONG, Verdict
from ossft_ray.verification.answers import conclusion, stated_answer
from ossft_ray.verification.kinds.text import MAX_CHARACTERS, normalise_text

# The letter, and all before its text: "(B) ", "B. ", "B) ", "**B:** ", "\\textbf{(B)}\\ ".
_MARK = (
    r"(?:\\(?:text(?:bf|rm|it)?|mathrm|mathbf|rm|bf)\s*\{?\s*)?\*{0,2}\(?\s*([A-Za-z])\s*"
    r"(?:\)|[.:](?!\w)|\*{2}(?=\s))\*{0,2}\s*\}?\*{0,2}"
)
_OPTION = re.compile(rf"(?:^|[\s$,;~]|\\quad|\\qquad){_MARK}[\s~:$\\]*", re.MULTILINE)
_LETTER = re.compile(rf"\s*(?:option|choice|answer)?\s*(?:{_MARK}|([A-Za-z])(?![\w'’]))", re.IGNORECASE)
_WIDE_SPACE = re.compile(r"\s{3,}")
_SPACING = re.compile(r"\\(?:q?quad|[,;:! ])|[~$]")


def grade(answer: str, response: str, *, question: str = "") -> Verdict:
    """Compare the option that `response` chooses with `answer`.

    The reason is `unparsed` if the stated answer is neither a letter nor an option's text.
    """
    options = read_options(question)
    if not answer.strip():
        return Verdict(False, NO_GOLD)
    extracted = _stated_choice(response)
    if extracted is None:
        return Verdict(False, NO_ANSWER)
    if max(len(answer), len(extracted)) > MAX_CHARACTERS:
        return Verdict(False, TOO_COMPLEX, extracted)
    gold = choose(answer, options)
    choice = choose(extracted, options)
    if gold is None or choice is None:
        correct = _plain(extracted) == _plain(answer)
        return Verdict(correct, CORRECT if correct else WRONG if choice else UNPARSED, extracted)
    return Verdict(choice == gold, CORRECT if choice == gold else WRONG, extracted)


def check_answer(answer: str, *, question: str = "") -> Verdict:
    """Check that a gold answer is an option of the question; if no options are found, any letter passes."""
    if not answer.strip():
        return Verdict(False, NO_GOLD)
    if len(answer) > MAX_CHARACTERS:
        return Verdict(False, TOO_COMPLEX, answer)
    known = choose(answer, read_options(question)) is not None
    return Verdict(known, CORRECT if known else UNPARSED, answer)


def read_options(question: str) -> dict[str, str]:
    r"""Read the options of a question by letter; empty unless they are A, B, ... in this order, at least two.

    >>> read_options("How many?\n(A) 6 (B) seven\n(C) 8")
    {'A': '6', 'B': 'seven', 'C': '8'}
    """
    # Shorten white space, because the patterns below start a match at every character of it.
    question = _WIDE_SPACE.sub("\n\n", question[-MAX_CHARACTERS:])
    marks = list(_OPTION.finditer(question))
    for first in reversed(range(len(marks))):  # the last list that begins with A counts
        options = _in_order(marks[first:])
        if len(options) > 1:
            ends = [mark.start() for mark in options[1:]] + [len(question)]
            texts = [question[mark.end() : end] for mark, end in zip(options, ends, strict=True)]
            texts[-1] = texts[-1].partition("\n\n")[0]
            texts = [_SPACING.sub(" ", text).strip(" .,;\n\t") for text in texts]
            return dict(zip((mark[1].upper() for mark in options), texts, strict=True))
    return {}


def choose(text: str, options: dict[str, str]) -> str | None:
    """Return the letter of the option that a text names by its letter, or by being the text of that option alone."""
    matches = [letter for letter, option in options.items() if _plain(option) == _plain(text)]
    if len(matches) == 1:
        return matches[0]
    letter = _LETTER.match(text)
    if letter is None:
        return None
    found, rest = (letter[1] or letter[2]).upper(), text[letter.end() :]
    if options and found not in options:
        return None
    if letter[1]:  # "(B) because ..." chooses B; "(B), not (C)" and "(B) or (C)" choose nothing
        return None if _OPTION.search(rest) else found
    return found if _plain(rest) in ("", _plain(options.get(found, ""))) else None


def _in_order(marks: list[re.Match[str]]) -> list[re.Match[str]]:
    """Keep the marks that count A, B, C, ...; none if the first mark is not A."""
    found: list[re.Match[str]] = []
    for mark in marks:
        if mark[1].upper() == chr(ord("A") + len(found)):
            found.append(mark)
        elif not found:
            break
    return found


def _stated_choice(response: str) -> str | None:
    """The stated answer, else a last line that consists of a letter, as in short answers."""
    if (stated := stated_answer(response)) is not None:
        return stated
    last = conclusion(response).strip().rpartition("\n")[2].strip(" *.")
    return last if _LETTER.fullmatch(last) and len(last) <= 12 else None


def _plain(text: str) -> str:
    text = normalise_text(_SPACING.sub(" ", text), ignore_punctuation=False, ignore_articles=False)
    return text.strip(" .,;:!?\"'“”")
