r"""The boxes of a LaTeX text. `method` hides the answers in them, and `verification` reads these answers."""

import re

# Escaped characters (`\{`, and the `\\` before a brace) are matched whole, so they neither open nor close anything.
# TeX boxes only the 7 of `\boxed 72`, but whoever writes it means the number.
_TOKEN = re.compile(
    r"(?P<box>\\(?:boxed|fbox|framebox)\s*\{)|\\(?:boxed|fbox)\s*(?P<bare>[-+]?\d+(?:[.,/]\d+)*|\s[A-Za-z](?![A-Za-z]))"
    r"|\\.|(?P<open>\{)|(?P<close>\})",
    re.DOTALL,
)


def find_boxes(text: str, unclosed: bool = False) -> list[tuple[int, int]]:
    r"""Spans of the contents of each outermost `\boxed{...}`, `\fbox{...}` or `\framebox{...}`, in order.

    The braces may be missing (`\boxed 7`) and may nest. A box that is never closed is ignored (a complete box inside it
    counts), or extends to the end of the text if `unclosed`. The time is linear in the length of any text.

    >>> [r"x \boxed{\frac{1}{2}}"[start:end] for start, end in find_boxes(r"x \boxed{\frac{1}{2}}")]
    ['\\frac{1}{2}']
    """
    boxes: list[tuple[int, int]] = []
    opened: list[int | None] = []  # where the content of each open box starts; None for an ordinary brace
    for token in _TOKEN.finditer(text):
        if token["box"]:
            opened.append(token.end())
        elif token["bare"]:
            _close(boxes, token.start("bare"), token.end("bare"))
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
    while boxes and boxes[-1][0] > start:  # the outer box replaces the boxes inside it
        boxes.pop()
    boxes.append((start, end))
