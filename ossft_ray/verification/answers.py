r"""Which text counts as the answer?

| text                                       | answer      | rule                                            |
|--------------------------------------------|-------------|-------------------------------------------------|
| `so \boxed{\frac{1}{2}}`                   | `\frac{1}{2}` | the last complete box; nested braces allowed  |
| `\boxed{1}, no: \fbox{2}`                  | `2`         | `\fbox` and `\framebox` are boxes too           |
| `\boxed{5} goes into \boxed{}`             | `5`         | empty boxes say nothing                         |
| `\boxed{\boxed{5}}`                        | `5`         | a box that holds only a box is unwrapped        |
| `48 + 24 = 72\n#### 72`                    | `72`        | else a `####` on the last line (GSM8K)          |
| `#### Step 1\nAdd.`                        | none        | a heading is no tail                            |
| `<think>\boxed{1}</think> \boxed{2}`       | `2`         | `conclusion`: only what follows the thinking    |
"""

import re
from typing import Any

from ossft_ray.latex import find_boxes

_TAIL = re.compile(r"####[ \t]*(\S[^\n]*)\s*\Z")
_LONELY_BOX = re.compile(r"\s*\\(?:boxed|fbox|framebox)\s*\{.*\}\s*", re.DOTALL)


def final_answer(text: str) -> str | None:
    r"""The answer an expert solution or a response ends with: its last box, else its `#### ...` tail, else None.

    >>> final_answer(r"Half of it: \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    """
    for start, end in reversed(find_boxes(text)):
        if content := _unwrap(text[start:end]):
            return content
    # Searched from the last marker on, so that a long text costs nothing.
    marker = text.rfind("####")
    tail = _TAIL.match(text, marker) if marker >= 0 else None
    return tail[1].strip() if tail else None


def conclusion(response: str) -> str:
    """What a response says after its thinking: the text after the last `</think>`, or nothing if that never came.

    >>> conclusion("<think>3?</think>It is 5.")
    'It is 5.'
    """
    _, closed, after = response.rpartition("</think>")
    return after if closed else response.partition("<think>")[0]


def answer_text(value: Any) -> str:
    """An answer cell as text: 27.0 is "27", a list of one is its item, a longer list is joined by commas.

    Empty for null, and for what is neither text nor a number.
    """
    if isinstance(value, list | tuple):
        return ", ".join(answer_text(item) for item in value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if value is None or isinstance(value, bool | dict | bytes) else str(value).strip()


def _unwrap(content: str) -> str:
    # Each turn takes one box off; the bound keeps ten thousand nested boxes from costing quadratic time.
    for _ in range(4):
        inner = find_boxes(content)
        if len(inner) != 1 or not _LONELY_BOX.fullmatch(content) or content[inner[0][1] + 1 :].strip():
            break
        content = content[slice(*inner[0])]
    return content.strip()
