r"""Where are the boxes of a LaTeX text? For what hides answers (`method`) and what reads them (`verification`)."""

import re

# Escaped characters (`\{`, and the `\\` before a brace) are taken whole, so they neither open nor close anything.
_TOKEN = re.compile(r"(?P<box>\\(?:boxed|fbox|framebox)\s*\{)|\\.|(?P<open>\{)|(?P<close>\})", re.DOTALL)


def find_boxes(text: str, unclosed: bool = False) -> list[tuple[int, int]]:
    r"""Spans of what stands in each outermost `\boxed{...}`, `\fbox{...}` or `\framebox{...}`, in order.

    Nested braces are allowed. A box that is never closed is passed over (a complete one inside it counts), or
    taken to run to the end of the text if `unclosed`. One pass: linear in the text, whatever it holds.

    >>> [r"x \boxed{\frac{1}{2}}"[start:end] for start, end in find_boxes(r"x \boxed{\frac{1}{2}}")]
    ['\\frac{1}{2}']
    """
    boxes: list[tuple[int, int]] = []
    opened: list[int | None] = []  # where the content of each open box starts; None for an ordinary brace
    for token in _TOKEN.finditer(text):
        if token["box"]:
            opened.append(token.end())
        elif token["open"]:
            opened.append(None)
        elif token["close"] and opened:
            start = opened.pop()
            if start is not None:
                _close(boxes, start, token.start())
    never_closed = next((start for start in opened if start is not None), None)
    if unclosed and never_closed is not None:
        _close(boxes, never_closed, len(text))
    return boxes


def _close(boxes: list[tuple[int, int]], start: int, end: int) -> None:
    while boxes and boxes[-1][0] > start:  # inner boxes give way to the one around them
        boxes.pop()
    boxes.append((start, end))
