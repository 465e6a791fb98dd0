r"""Multiple choice: options are compared by their letters, or by their texts as the question gives them.

The gold answer is a letter (`B`, `(B)`, `\text{(B)}`), several letters (`A, C`, `AC`), or the text of an option. A
response may state any of these: `B`, `(B) seven`, `\textbf{(B)}\ 7`, `seven`, `AC`, `A and C`. The order of several
letters does not matter, and all must be chosen. A text counts only if the question's options are found and exactly one
of them is that text. Options and answers may be Chinese: `A．六`, `故选：B`.
"""

import re

from ossft_ray.common.verdict import CORRECT, NO_ANSWER, NO_GOLD, TOO_COMPLEX, UNPARSED, WRONG, Verdict
from ossft_ray.verification.answers import announced_answer, conclusion, final_answer, gold_answer, stated_answer
from ossft_ray.verification.kinds.text import MAX_CHARACTERS, normalise_text
from ossft_ray.verification.normalisation import plain_characters

_FONT = r"\\(?:text(?:bf|rm|it)?|mathrm|mathbf|rm|bf)\s*"
# The letter, and everything before its text: "(B) ", "B. ", "B) ", "**B:** ", "\\textbf{(B)}\\ ".
_MARK = (
    rf"(?:{_FONT}\{{?\s*)?\*{{0,2}}\(?\s*([A-Za-z])\s*"
    r"(?:\)|[.:](?!\w)|\*{2}(?=\s))\*{0,2}\s*\}?\*{0,2}"
)
_OPTION = re.compile(rf"(?:^|[\s$,;~]|\\quad|\\qquad){_MARK}[\s~:$\\]*", re.MULTILINE)
_LETTER = re.compile(rf"\s*(?:option|choice|answer)?\s*(?:{_MARK}|([A-Za-z])(?![\w'’]))", re.IGNORECASE)
_LETTERS = re.compile(r"\(?[A-Z]\)?(?:\s*(?:,|;|/|&|\+|\band\b)*\s*\(?[A-Z]\)?)+")
_LAST_LETTER = re.compile(r"(.+?)\s*\(([A-Z])\)\s*\Z")
_CHINESE_MARK = re.compile(r"(?<![A-Za-z])([A-Z])\s*[．、：]\s*")
# What may follow a letter that stands without a bracket: a reason, which is not the text of another option.
_REASON = re.compile(r"\s*,?\s*(?:because|since|as|which\s+is|for|given|due)\b", re.IGNORECASE)
_WIDE_SPACE = re.compile(r"\s{3,}")
_SPACING = re.compile(r"\\(?:q?quad|[,;:! ])|[~$]")
_WRAPPED = re.compile(rf"{_FONT}\{{([^{{}}]*)\}}|(?<![A-Za-z])\{{([^{{}}]*)\}}|\*{{1,3}}|`")
_CALLED_CORRECT = re.compile(
    r"\b(?:correct|right|best)\s+(?:option|choice)\s+is:?\s*(.{1,80}?)(?:\.\s|\.?\s*\Z|\n)"
    r"|\b(?:option|choice)\s+(\(?[A-Z]\)?)\s+is\s+(?:the\s+)?(?:correct|right|best)\b"
    r"|(?:^|[.\n*]\s*)(\(?[A-Z]\)?)\s+is\s+(?:the\s+)?(?:correct|right|best)(?:\s+(?:answer|option|choice)\b|\s*[.!]|\s*\Z)"
    r"|选项\s*(\(?[A-Z]\)?)\s*是?正确",
    re.IGNORECASE,
)


def grade(answer: str, response: str, *, question: str = "") -> Verdict:
    """Compare the options that `response` chooses with `answer`.

    The reason is `unparsed` if the stated answer is neither letters nor an option's text.
    """
    options = read_options(question)
    answer = gold_answer(answer)
    if not answer:
        return Verdict(False, NO_GOLD)
    extracted = _stated_choice(response, options)
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
    """Check that a gold answer names options of the question; if no options are found, any letters pass."""
    answer = gold_answer(answer)
    if not answer:
        return Verdict(False, NO_GOLD)
    if len(answer) > MAX_CHARACTERS:
        return Verdict(False, TOO_COMPLEX, answer)
    known = choose(answer, read_options(question)) is not None
    return Verdict(known, CORRECT if known else UNPARSED, answer)


def compare_choices(answer: str, stated: str, question: str) -> bool | None:
    r"""Whether two answers name the same options; None if that cannot be told.

    For the other kinds: `AC` is `C, A` if the question asks which of A to D are right, and otherwise a product. A gold
    answer that is the letter of an option (`C`) is compared with the option that the other answer names:
    `\textbf{(C)}\ 6` or its text. An answer that gives a letter and a text (`C. x = 42`) is the letter C even without
    options.
    """
    options = read_options(question) if question else {}
    if not options:
        found = re.fullmatch(r"\(?([A-H])\)?[.:)]\s+\S.*", stated.strip()) if len(stated) < MAX_CHARACTERS else None
        return found[1] == answer.strip("() .") if found and re.fullmatch(r"\(?[A-H]\)?\.?", answer) else None
    if (letter := re.fullmatch(r"\(?([A-Z])\)?\.?", answer.strip())) and letter[1] in options:
        named = choose(stated, options)
        return None if named is None else named == {letter[1]}
    gold, choice = _letters(_unwrapped(answer), options), _letters(_unwrapped(stated), options)
    return gold == choice if gold and choice else None


def read_options(question: str) -> dict[str, str]:
    r"""Read the options of a question by letter; empty unless they are A, B, ... in this order, at least two.

    >>> read_options("How many?\n(A) 6 (B) seven\n(C) 8")
    {'A': '6', 'B': 'seven', 'C': '8'}
    """
    # Shorten white space, because the patterns below start a match at every character of it.
    question = question[-MAX_CHARACTERS:]
    if not question.isascii():
        question = plain_characters(_CHINESE_MARK.sub(r" \1. ", question))
    question = _WIDE_SPACE.sub("\n\n", question)
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


def choose(text: str, options: dict[str, str]) -> frozenset[str] | None:
    """Return the letters of the options that a text names, by letter or by the text of exactly one."""
    if len(text) > MAX_CHARACTERS:
        return None
    text = _unwrapped(text)
    matches = [letter for letter, option in options.items() if _plain(option) == _plain(text)]
    if len(matches) == 1:
        return frozenset(matches)
    if several := _letters(text, options):
        return several
    if (last := _LAST_LETTER.fullmatch(text.strip())) and _plain(last[1]) == _plain(options.get(last[2], "")):
        return frozenset(last[2])  # "7 (B)"
    letter = _LETTER.match(text)
    if letter is None:
        return None
    found, rest = (letter[1] or letter[2]).upper(), text[letter.end() :]
    if options and found not in options:
        return None
    if letter[1]:  # "(B) because ..." chooses B; "(B), not (C)" and "(B) or (C)" choose nothing
        return None if _OPTION.search(rest) else frozenset(found)
    follows = _plain(re.sub(r"^\s*(?:,|-|:|which\s+is)\s*", "", rest).strip(" ()"))
    if follows in ("", _plain(options.get(found, ""))):
        return frozenset(found)
    # "B because a car ..." chooses B; "a prime number" and "I think B" choose nothing.
    is_reason = letter[2] is not None and letter[2].isupper() and _REASON.match(rest)
    return frozenset(found) if is_reason and not _OPTION.search(rest) else None


def _letters(text: str, options: dict[str, str]) -> frozenset[str] | None:
    """The letters of an answer that consists of capital letters, each once and, if there are options, one of theirs."""
    if not _LETTERS.fullmatch(text.strip(" .,;")):
        return None
    letters = re.findall(r"[A-Z]", text)
    known = set(options) if options else set("ABCDEFGHIJ")
    return frozenset(letters) if len(set(letters)) == len(letters) and set(letters) <= known else None


def _unwrapped(text: str) -> str:
    """A text without the fonts, braces and bold that formatted it, in plain characters."""
    text = _WIDE_SPACE.sub(" ", plain_characters(text))
    for _ in range(3):
        text = _WRAPPED.sub(lambda match: match[1] or match[2] or "", text)
    return re.sub(
        r"^\s*(?:option|choice|answer|选项)\s*:?\s*(?=\(?[A-Za-z]\b)", "", _SPACING.sub(" ", text), flags=re.IGNORECASE
    )


def _in_order(marks: list[re.Match[str]]) -> list[re.Match[str]]:
    """Keep the marks that count A, B, C, ...; none if the first mark is not A."""
    found: list[re.Match[str]] = []
    for mark in marks:
        if mark[1].upper() == chr(ord("A") + len(found)):
            found.append(mark)
        elif not found:
            break
    return found


def _stated_choice(response: str, options: dict[str, str]) -> str | None:
    """The stated answer, else an option that is called correct, else a last line that consists of a letter.

    A box that holds something other than a choice gives way to what is announced after it.
    """
    text = plain_characters(conclusion(response))
    stated = stated_answer(response)
    if stated is not None and choose(stated, options) is None and final_answer(text) == stated:
        announced = announced_answer(text.rpartition("}")[2])
        stated = announced if announced is not None and choose(announced, options) is not None else stated
    if stated is not None:
        return stated
    called = list(_CALLED_CORRECT.finditer(text[-MAX_CHARACTERS // 10 :]))
    if called:
        return next(group for group in called[-1].groups() if group is not None).strip(" *")
    last = text.strip().rpartition("\n")[2].strip(" *.")
    return last if _LETTER.fullmatch(last) and len(last) <= 12 else None


def _plain(text: str) -> str:
    text = normalise_text(_SPACING.sub(" ", text), ignore_punctuation=False, ignore_articles=False)
    return text.strip(" .,;:!?\"'“”")
