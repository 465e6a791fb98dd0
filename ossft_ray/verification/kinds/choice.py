r"""Is this the right option? Letters, or the options' own texts, which are read from the question.

The gold answer is a letter (`B`, `(B)`, `\text{(B)}`) or the text of an option. So is what a response says: `B`,
`(B) seven`, `\textbf{(B)}\ 7`, `seven`. A text counts only where the question's options are found and exactly one of
them is that text.
"""

import re

from ossft_ray.common.verdict import CORRECT, NO_ANSWER, NO_GOLD, TOO_COMPLEX, UNPARSED, WRONG, Verdict
from ossft_ray.verification.answers import announced_answer, conclusion, final_answer, well_formed
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

    The reason is `unparsed` where what the response states is neither a letter nor an option's text.
    """
    options = read_options(question)
    if not answer.strip():
        return Verdict(False, NO_GOLD)
    extracted = _stated(well_formed(response))
    if extracted is None:
        return Verdict(False, NO_ANSWER)
    if max(len(answer), len(extracted)) > MAX_CHARACTERS:
        return Verdict(False, TOO_COMPLEX, extracted)
    gold = chosen(answer, options)
    choice = chosen(extracted, options)
    if gold is None or choice is None:
        correct = _plain(extracted) == _plain(answer)
        return Verdict(correct, CORRECT if correct else WRONG if choice else UNPARSED, extracted)
    return Verdict(choice == gold, CORRECT if choice == gold else WRONG, extracted)


def check_answer(answer: str, *, question: str = "") -> Verdict:
    """Whether a gold answer is an option of the question; any letter, where the question's options are not found."""
    if not answer.strip():
        return Verdict(False, NO_GOLD)
    if len(answer) > MAX_CHARACTERS:
        return Verdict(False, TOO_COMPLEX, answer)
    known = chosen(answer, read_options(question)) is not None
    return Verdict(known, CORRECT if known else UNPARSED, answer)


def read_options(question: str) -> dict[str, str]:
    r"""The options of a question by letter; empty unless they are A, B, ... in this order, at least two.

    >>> read_options("How many?\n(A) 6 (B) seven\n(C) 8")
    {'A': '6', 'B': 'seven', 'C': '8'}
    """
    question = _WIDE_SPACE.sub("\n\n", question[-MAX_CHARACTERS:])  # patterns below try every start of white space
    marks = list(_OPTION.finditer(question))
    for first in reversed(range(len(marks))):  # the last list that begins with A
        options = _in_order(marks[first:])
        if len(options) > 1:
            ends = [mark.start() for mark in options[1:]] + [len(question)]
            texts = [question[mark.end() : end] for mark, end in zip(options, ends, strict=True)]
            texts[-1] = texts[-1].partition("\n\n")[0]
            texts = [_SPACING.sub(" ", text).strip(" .,;\n\t") for text in texts]
            return dict(zip((mark[1].upper() for mark in options), texts, strict=True))
    return {}


def _in_order(marks: list[re.Match[str]]) -> list[re.Match[str]]:
    """The marks that are A, B, C, ..., each after the one before it; none where the first is not A."""
    found: list[re.Match[str]] = []
    for mark in marks:
        if mark[1].upper() == chr(ord("A") + len(found)):
            found.append(mark)
        elif not found:
            break
    return found


def chosen(text: str, options: dict[str, str]) -> str | None:
    """The letter of the option that a text names, by its letter or as the one option with that text."""
    matches = [letter for letter, option in options.items() if _plain(option) == _plain(text)]
    if len(matches) == 1:
        return matches[0]
    letter = _LETTER.match(text)
    if letter is None:
        return None
    found, rest = (letter[1] or letter[2]).upper(), text[letter.end() :]
    if options and found not in options:
        return None
    if letter[1]:  # "(B) because ..." is B, "(B), not (C)" and "(B) or (C)" are no choice
        return None if _OPTION.search(rest) else found
    return found if _plain(rest) in ("", _plain(options.get(found, ""))) else None


def _stated(response: str) -> str | None:
    """A box, a tail or an announcement; else a last line that is nothing but a letter, as short answers are."""
    text = conclusion(response)
    marked = final_answer(text)
    stated = announced_answer(text) if marked is None else marked
    if stated is None:
        last = text.strip().rpartition("\n")[2].strip(" *.")
        whole = _LETTER.fullmatch(last)
        return last if whole and len(last) <= 12 else None
    return stated


def _plain(text: str) -> str:
    text = normalise_text(_SPACING.sub(" ", text), ignore_punctuation=False, ignore_articles=False)
    return text.strip(" .,;:!?\"'“”")
