r"""Which text counts as the answer, and which answers are the same?

One table for all kinds; every row is also a test (`\n` is a new line). The answer is the last box, else a `####` tail,
else what is announced near the end. Nothing else is one: a response that gives up after "I see 5 apples" has none.

| kind   | gold              | response                                  | answer read          | verdict   |
|--------|-------------------|-------------------------------------------|----------------------|-----------|
| math   | `\frac{1}{2}`     | `so \boxed{\frac{1}{2}}.`                 | `\frac{1}{2}`        | correct   |
| math   | `2`               | `\boxed{1}, or rather \boxed{2}`          | `2`                  | correct   |
| math   | `2`               | `\boxed{1}, no: \fbox{2}`                 | `2`                  | correct   |
| math   | `1, 2`            | `$x = \boxed{1}$ or $x = \boxed{2}$`      | `1, 2`               | correct   |
| math   | `2`               | `\boxed{1}, \boxed{2}`                    | `1, 2`               | wrong     |
| math   | `5`               | `\boxed{5} goes into \boxed{}`            | `5`                  | correct   |
| math   | `5`               | `\boxed{\boxed{5}}`                       | `5`                  | correct   |
| math   | `5`               | `\boxed{5} or \boxed{\frac{1}`            | `5`                  | correct   |
| math   | `5`               | `\boxed{}`                                |                      | no_answer |
| math   | `72`              | `48 + 24 = 72\n#### 72`                   | `72`                 | correct   |
| math   | `1234`            | `#### 1,234`                              | `1,234`              | correct   |
| math   | `2`               | `#### Step 2\nAdd.`                       |                      | no_answer |
| math   | `2`               | `\boxed{2}\n#### 4`                       | `2`                  | correct   |
| math   | `5`               | `The answer is 5.`                        | `5`                  | correct   |
| math   | `5`               | `The final answer is: $x = 5$, as above.` | `x = 5`              | correct   |
| math   | `5`               | `**Answer:** 5`                           | `5`                  | correct   |
| math   | `2, 3`            | `The answers are $2$ and $3$.`            | `2, 3`               | correct   |
| math   | `5`               | `The answer is not 5 but 6.`              |                      | no_answer |
| math   | `5`               | `I see 5 apples and give up.`             |                      | no_answer |
| math   | `2`               | `<think>\boxed{1}</think> \boxed{2}`      | `2`                  | correct   |
| math   | `1`               | `<think>\boxed{1}`                        |                      | no_answer |
| math   | `5`               | `\boxed{5\text{ cm}}`                     | `5\text{ cm}`        | correct   |
| math   | `5\text{ cm}`     | `\boxed{5}`                               | `5`                  | correct   |
| math   | `18`              | `\boxed{\$18}`                            | `\$18`               | correct   |
| math   | `50\%`            | `\boxed{50}`                              | `50`                 | correct   |
| math   | `50\%`            | `\boxed{0.5}`                             | `0.5`                | correct   |
| math   | `[0, 1)`          | `\boxed{0 \le x < 1}`                     | `0 \le x < 1`        | correct   |
| math   | `[0, 1)`          | `\boxed{[0, 1]}`                          | `[0, 1]`             | wrong     |
| math   | `1, 2`            | `\boxed{\{2, 1\}}`                        | `\{2, 1\}`           | correct   |
| math   | `(1, 2)`          | `\boxed{(2, 1)}`                          | `(2, 1)`             | wrong     |
| math   | `5`               | `\boxed{x = 5}`                           | `x = 5`              | correct   |
| math   | `5`               | `\boxed{2 + 3 = 5}`                       | `2 + 3 = 5`          | correct   |
| math   | `y = 2x + 1`      | `\boxed{y - 2x = 1}`                      | `y - 2x = 1`         | correct   |
| math   | `\text{Evelyn}`   | `\boxed{Evelyn}`                          | `Evelyn`             | correct   |
| math   | `073`             | `\boxed{\textbf{(073)}}`                  | `\textbf{(073)}`     | correct   |
| math   | `5`               | `\boxed{x^2 + = 5 +}`                     | `x^2 + = 5 +`        | unparsed  |
| math   |                   | `\boxed{5}`                               |                      | no_gold   |
| choice | `B`               | `The answer is (B) seven.`                | `(B) seven`          | correct   |
| choice | `(B)`             | `\boxed{\textbf{(C)}\ 8}`                 | `\textbf{(C)}\ 8`    | wrong     |
| choice | `B`               | `b`                                       | `b`                  | correct   |
| choice | `B`               | `The answer is (B) or (C).`               | `(B) or (C)`         | unparsed  |
| number | `1234.5`          | `\boxed{1,234.50}`                        | `1,234.50`           | correct   |
| number | `5 km`            | `\boxed{5000\,\mathrm{m}}`                | `5000\,\mathrm{m}`   | correct   |
| number | `5 km`            | `\boxed{5\,\mathrm{m}}`                   | `5\,\mathrm{m}`      | wrong     |
| number | `4.5e33`          | `\boxed{4.5 \times 10^{33}}`              | `4.5 \times 10^{33}` | correct   |
| number | `0.5`             | `\boxed{50\%}`                            | `50\%`               | correct   |
| number | `5`               | `\boxed{five}`                            | `five`               | unparsed  |
| text   | `United States`   | `The answer is the united states.`        | `the united states`  | correct   |
| text   | `["USA", "U.S."]` | `\boxed{\text{US}}`                       | `\text{US}`          | correct   |
| text   | `Paris`           | `\boxed{London}`                          | `London`             | wrong     |
"""

import json
import re
from typing import Any

from ossft_ray.common.latex import find_boxes

ANNOUNCED_WITHIN_CHARACTERS = 400  # of the end: what is announced earlier may have been given up since

_TAIL = re.compile(r"####[ \t]*(\S[^\n]*)\Z")
_LONELY_BOX = re.compile(r"\s*\\(?:boxed|fbox|framebox)\s*\{.*\}\s*", re.DOTALL)
# What may stand between two boxes that are one answer: "$x = \boxed{1}$ or $x = \boxed{2}$".
_JOINT = re.compile(
    r"\s*\$*\s*(?:,|;|and|or|,\s*and|,\s*or|\\text\s*\{\s*(?:and|or)\s*\})\s*\$*(?:\s*[A-Za-z]\s*=)?\s*"
)
_ANNOUNCEMENT = re.compile(
    r"\banswers?\b(?:\s+(?:to|of|for)\b[^.:\n$]{0,60}?)?[\s*_]*(?:\b(?:is|are|would\s+be|must\s+be)\b|[:=])[\s*_]*:?[\s*_]*"
    r"(?:(?:thus|therefore|then|hence|so|simply|just)\b[\s,]*)*"
    r"|^[#*_ \t]*(?:the\s+)?(?:final\s+)?answer[*_ \t]*\n\s*[*_]*",  # a heading
    re.IGNORECASE | re.MULTILINE,
)
_MONEY = r"\d[\d,.]*(?:\s+(?![\\+\-*/=^<>])|\Z)"  # what follows the dollar of "$18 a week"
_FORMULA = re.compile(rf"\$\$(.+?)\$\$|\$(?!{_MONEY})([^$\n]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_AND = re.compile(r"\s*(?:,?\s*\band\b|,?\s*\bor\b|,)\s*")
_SENTENCE_END = re.compile(r"[.!?;](?=\s|\*|\Z)|\n")
# "The answer is not ..." and "the answer is obtained by ..." announce nothing.
_NOT = re.compile(r"(?:not|n't|un\w+|obtained|reasonable|clear|correct|right|wrong|independent)\b", re.IGNORECASE)


def final_answer(text: str) -> str | None:
    r"""The answer that a text marks as such: its last box, else its `#### ...` tail, else None.

    Boxes that are joined by "and", "or" or a comma are one answer of several parts.

    >>> final_answer(r"Half of it: \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    """
    parts: list[str] = []
    next_start = None  # of the box that was taken last, further on in the text
    for start, end in reversed(find_boxes(text)):
        content = _unwrap(text[start:end])
        if next_start is not None and not (content and _is_joined(text, end + 1, next_start)):
            break
        if content:
            parts.append(content)
            next_start = start
    if parts:
        return ", ".join(reversed(parts))
    # Searched from the last marker on, so that a long text costs nothing.
    marker = text.rfind("####")
    tail = _TAIL.match(text[marker:].rstrip()) if marker >= 0 else None
    return tail[1].strip() if tail else None


def stated_answer(response: str) -> str | None:
    """The answer that a response states after its thinking: marked (`final_answer`), else announced, else None.

    >>> stated_answer("<think>3?</think>So the answer is $5$, I think.")
    '5'
    """
    text = conclusion(response)
    marked = final_answer(text)
    return announced_answer(text) if marked is None else marked


def announced_answer(text: str) -> str | None:
    """What follows the last "the answer is" (or "Answer:") near the end of a text.

    The formulas that follow at once, or the rest of the sentence.
    """
    text = text[-ANNOUNCED_WITHIN_CHARACTERS:]
    last = None
    for last in _ANNOUNCEMENT.finditer(text):  # noqa: B007
        pass
    if last is None or _NOT.match(text, last.end()):
        return None
    formulas, position = [], last.end()
    while formula := _FORMULA.match(text, position):
        formulas.append(next(group for group in formula.groups() if group is not None).strip())
        joint = _AND.match(text, formula.end())
        if joint is None:
            break
        position = joint.end()
    if formulas:
        return ", ".join(formulas)
    end = _SENTENCE_END.search(text, last.end())
    return text[last.end() : end.start() if end else len(text)].strip(" \t*_\"'“”`") or None


def conclusion(response: str) -> str:
    """What a response says after its thinking: the text after the last `</think>`, or nothing if that never came.

    >>> conclusion("<think>3?</think>It is 5.")
    'It is 5.'
    """
    _, closed, after = response.rpartition("</think>")
    return after if closed else response.partition("<think>")[0]


def answer_text(value: Any, kind: str = "math") -> str:
    """An answer cell as text: 27.0 is "27", a list of one is its item, a longer list is joined by commas.

    For the kind `text` a list holds aliases, and stays one. Empty for null, and for what is neither text nor a number.
    """
    if isinstance(value, list | tuple) and kind == "text" and len(value) > 1:
        return json.dumps([answer_text(item) for item in value], ensure_ascii=False)
    if isinstance(value, list | tuple):
        return ", ".join(answer_text(item) for item in value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if value is None or isinstance(value, bool | dict | bytes) else str(value).strip()


def well_formed(response: str) -> str:
    """The response without halves of surrogate pairs, which can be sampled, but not written to UTF-8 afterwards."""
    return response.encode("utf-8", "replace").decode("utf-8")


def _is_joined(text: str, start: int, next_start: int) -> bool:
    """Whether nothing but a joint stands between the end of one box and the content of the next."""
    between = text[start:next_start]
    opening = max(between.rfind(name) for name in ("\\boxed", "\\fbox", "\\framebox"))
    return opening >= 0 and _JOINT.fullmatch(between[:opening]) is not None


def _unwrap(content: str) -> str:
    # Each turn takes one box off; the bound keeps ten thousand nested boxes from costing quadratic time.
    for _ in range(4):
        inner = find_boxes(content)
        if len(inner) != 1 or not _LONELY_BOX.fullmatch(content) or content[inner[0][1] + 1 :].strip():
            break
        content = content[slice(*inner[0])]
    return content.strip()
