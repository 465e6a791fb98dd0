"""The rules for which text of a response counts as its answer.

The answer is the last box, else a `####` tail, else what is announced near the end. Nothing else counts: "I see 5
apples and give up" has no answer. `docs/verification.md` has a table of examples for all kinds, and each row is a test.
"""

import json
import math
import re
from decimal import Decimal
from typing import Any

from ossft_ray.common.latex import find_boxes
from ossft_ray.verification.normalisation import plain_characters

_ANNOUNCED_WITHIN_CHARACTERS = 400  # of the end, because the model may drop an answer that it announces earlier

_TAIL = re.compile(r"####[ \t]*(\S[^\n]*)\Z")
# A tail with other text below it must be a number alone, because "#### 2. Add them" is a heading.
_NUMBER_TAIL = re.compile(r"####[ \t]*((?:\*\*|\\?\$|[-+€£¥])*\d[\d,./]*\d?(?:\\?%)?\$?(?:\*\*)?)[ \t]*(?:\n|<)")
_END_TOKEN = re.compile(r"(?:<\|[^<>|]{1,40}\|>|</s>|<end_of_turn>|<eos>)\Z")
_ONLY_A_BOX = re.compile(r"\s*\\(?:boxed|fbox|framebox)\s*\{.*\}\s*", re.DOTALL)
# The text between two boxes that form one answer: "$x = \boxed{1}$ or $x = \boxed{2}$".
_JOINT = re.compile(
    r"\s*\$*\s*(?:,|;|and|or|,\s*and|,\s*or|\\text\s*\{\s*(?:and|or)\s*\})\s*\$*(?:\s*[A-Za-z]\s*=)?\s*"
)
_ANNOUNCEMENT = re.compile(
    r"\banswers?\b(?:\s+(?:to|of|for)\b[^.:\n$]{0,60}?)?[\s*_]*(?:\b(?:is|are|would\s+be|must\s+be)\b|[:=])[\s*_]*:?[\s*_]*"
    r"(?:(?:thus|therefore|then|hence|so|simply|just)\b[\s,]*)*"
    r"|答案(?:是|为|應為|应为|選|选)?\s*[::]?\s*|(?:故|所以|因此|应|應)\s*(?:选|選)(?:择|擇)?\s*[::]?\s*"
    r"|^[#*_ \t]*(?:the\s+)?(?:final\s+)?answer[*_ \t]*\n\s*[*_]*",  # a heading
    re.IGNORECASE | re.MULTILINE,
)
_MONEY = r"\d[\d,.]*(?:\s+(?![\\+\-*/=^<>])|\Z)"  # the text after the dollar of "$18 a week"
_FORMULA = re.compile(rf"\$\$(.+?)\$\$|\$(?!{_MONEY})([^$\n]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_AND = re.compile(r"\s*(?:,?\s*\band\b|,?\s*\bor\b|,)\s*")
_SENTENCE_END = re.compile(
    r"(?<!\bRs)(?<!\bapprox)(?<!\bNo)(?<!\bvs)(?:[.!?](?=\s|\*|\Z)|;(?=\s+(?!and\b|or\b)[a-z]{2})|\n|;\s*\Z)"
)
# What follows an answer in its sentence and only explains it: ", since ...", ", not 6", " because ...".
_REASON = re.compile(
    r"\s*(?:,\s*(?:(?:and\s+)?with|since|as|because|so|which|where|not|while|whereas|given|that is|i\.e|rather|after"
    r"|thus|hence)"
    r"|\s(?:because|since|which|whereas|given that|as expected|as required|as shown|as needed|as above))\b.*"
    r"|\s+\(\s*(?:since|because|as|i\.e|which|where)\b.*"
    r"|\s+and\s[^,;]{0,80}\b(?:is|are|was|were|do|does)(?:\s+not|n't)\b.*",  # what is denied is not a second answer
    re.DOTALL | re.IGNORECASE,
)
# What may follow a formula that is the whole answer; in "$5$ million" and "$5$ times n" it is not.
_ENDS_FORMULA = re.compile(r"[\s*_\"']*(?:[.!?;:](?=\s|\*|\Z)|\n|\Z)|" + _REASON.pattern, re.DOTALL | re.IGNORECASE)
_MINUS_BEFORE_BOX = re.compile(r"(?:[=$]\s*-\s*|\A-)\\(?:boxed|fbox|framebox)\s*\{?\Z")
_UNIT_AFTER_BOX = re.compile(
    r"\s*(?:(?:hundred|thousand|million|billion|trillion|dozen)\b|\\%"
    r"|\\(?:text|mathrm)\s*\{[\s~]*(?:hundred|thousand|million|billion|trillion|dozen|[kcmμ]?(?:m|g|L|l|s)|min|h)\s*\})"
)
# "The answer is not ..." and "the answer is obtained by ..." announce no answer.
_NO_ANSWER = re.compile(r"(?:not|n't|un\w+|obtained|reasonable|clear|correct|right|wrong|independent)\b", re.IGNORECASE)


def final_answer(text: str) -> str | None:
    r"""Return the answer that a text marks: the content of its last box, else of its `####` tail, else None.

    Boxes joined by "and", "or" or a comma form one answer.

    >>> final_answer(r"Half of it: \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    """
    parts: list[str] = []
    next_start = None  # of the box after this one
    for start, end in reversed(find_boxes(text)):
        content = _unwrap(text[start:end])
        if content and next_start is None:
            content = _with_sign_and_unit(content, text[:start], text[end + 1 : end + 60])
        if next_start is not None and not (content and _is_joined(text, end + 1, next_start)):
            break
        if content:
            parts.append(content)
            next_start = start
    if parts:
        return ", ".join(reversed(parts))
    # The search starts at the last marker, so that its cost does not grow with the text.
    marker = text.rfind("####")
    if marker < 0:
        return None
    rest = text[marker:]
    if tail := _TAIL.match(_without_end_tokens(rest)):
        return tail[1].strip()
    if (announced := announced_answer(rest)) is not None:  # MetaMathQA writes "#### 5" and then "The answer is: 5"
        return announced if announced == rest.removeprefix("####").partition("\n")[0].strip() else None
    tail = _NUMBER_TAIL.match(rest)
    return tail[1].strip() if tail else None


def gold_answer(text: str) -> str:
    r"""Return the answer marked in a gold text, which may be a whole solution; else the text itself.

    >>> gold_answer("48 + 24 = 72\n#### 72"), gold_answer(r"$\boxed{5}$"), gold_answer("5")
    ('72', '5', '5')
    """
    text = text.strip()
    if "####" not in text and "box" not in text:
        return text
    return final_answer(text) or text


def without_reasons(text: str) -> str:
    """Return the start of a sentence up to the words that explain its answer.

    >>> without_reasons("5 apples, since 6 is too many"), without_reasons("5, 6 and 7")
    ('5 apples', '5, 6 and 7')
    """
    found = _REASON.search(text) if len(text) <= _ANNOUNCED_WITHIN_CHARACTERS else None
    return text[: found.start()] if found and text[: found.start()].strip() else text


def stated_answer(response: str) -> str | None:
    """Return the answer that a response states after its thinking: a marked one, else an announced one, else None.

    >>> stated_answer("<think>3?</think>So the answer is $5$, I think.")
    '5'
    """
    text = conclusion(response)
    marked = final_answer(text)
    return announced_answer(text) if marked is None else marked


def announced_answer(text: str) -> str | None:
    """Return what follows the last "the answer is" or "Answer:" near the end of a text.

    That is the formulas directly after it, else the rest of the sentence.
    """
    text = plain_characters(text[-_ANNOUNCED_WITHIN_CHARACTERS:])
    starts = [announcement.end() for announcement in _ANNOUNCEMENT.finditer(text)]
    if not starts or _NO_ANSWER.match(text, starts[-1]):
        return None
    formulas, position = [], starts[-1]
    after = position
    while formula := _FORMULA.match(text, position):
        formulas.append(next(group for group in formula.groups() if group is not None).strip())
        after = formula.end()
        joint = _AND.match(text, after)
        if joint is None:
            break
        position = joint.end()
    if formulas and (after >= len(text) or _ENDS_FORMULA.match(text, after)):
        return ", ".join(formulas)
    end = _SENTENCE_END.search(text, starts[-1])
    return text[starts[-1] : end.start() if end else len(text)].strip(" \t*_\"'“”`") or None


def conclusion(response: str) -> str:
    """Return the part of a response after its thinking, which ends with `</think>`; empty if the thinking never ends.

    Halves of surrogate pairs are replaced: a model can sample them, but UTF-8 cannot hold them.

    >>> conclusion("<think>3?</think>It is 5.")
    'It is 5.'
    """
    response = response.encode("utf-8", "replace").decode("utf-8")
    _, closed, after = response.rpartition("</think>")
    return after if closed else response.partition("<think>")[0]


def answer_text(value: Any, kind: str = "math") -> str:
    """Convert an answer cell to text: 27.0 becomes "27", and the items of a list are joined by commas.

    For the kind `text` a list holds aliases and stays a list, as JSON. A null, a bool, an object or bytes become "".
    """
    if isinstance(value, list | tuple) and kind == "text" and len(value) > 1:
        return json.dumps([answer_text(item) for item in value], ensure_ascii=False)
    if isinstance(value, list | tuple):
        return ", ".join(answer_text(item) for item in value)
    if isinstance(value, float):
        return format(Decimal(repr(value)).normalize(), "f") if math.isfinite(value) else ""
    return "" if value is None or isinstance(value, bool | dict | bytes) else str(value).strip()


def _is_joined(text: str, start: int, next_start: int) -> bool:
    """Whether only a joint stands between the end of one box and the content of the next."""
    between = text[start:next_start]
    opening = max(between.rfind(name) for name in ("\\boxed", "\\fbox", "\\framebox"))
    return opening >= 0 and _JOINT.fullmatch(between[:opening]) is not None


def _without_end_tokens(text: str) -> str:
    """A text without white space and `<|endoftext|>` at its end."""
    text = text.rstrip()
    while end := _END_TOKEN.search(text[-60:]):
        text = text[: len(text) - len(end[0])].rstrip()
    return text


def _with_sign_and_unit(content: str, before: str, after: str) -> str:
    """The content of a box with the minus before it and the scale or unit after it, which belong to the number."""
    if not content[-1].isdigit():
        return content
    unit = _UNIT_AFTER_BOX.match(after)
    before = before if len(before) < 40 else " " + before[-40:]
    sign = "-" if content[0].isdigit() and _MINUS_BEFORE_BOX.search(before) else ""
    return sign + content + (unit[0].rstrip() if unit else "")


def _unwrap(content: str) -> str:
    # Each iteration removes one box. The bound keeps ten thousand nested boxes from taking quadratic time.
    for _ in range(4):
        inner = find_boxes(content)
        if len(inner) != 1 or not _ONLY_A_BOX.fullmatch(content) or content[inner[0][1] + 1 :].strip():
            break
        content = content[slice(*inner[0])]
    return content.strip()
