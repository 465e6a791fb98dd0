"""Mark in HTML the words in which two texts differ."""

import difflib
import re
from collections.abc import Iterator

from markupsafe import Markup

_WORD = re.compile(r"\w+\s*|[^\w\s]\s*|\s+")  # a word or one sign, with the space after it
_MAX_WORDS = 1_000  # compared in each text; the rest stays unmarked


def mark_differences(before: str, after: str) -> tuple[Markup, Markup]:
    """`before` with <del> around what `after` lacks, and `after` with <ins> around what is new. All else is escaped.

    >>> mark_differences("It is 2 & no more.", "It is 3 & no more.")
    (Markup('It is <del>2</del> &amp; no more.'), Markup('It is <ins>3</ins> &amp; no more.'))
    """
    if before == after:
        return Markup.escape(before), Markup.escape(after)
    words = [_WORD.findall(text) for text in (before, after)]
    first, second = ([word.strip() for word in each[:_MAX_WORDS]] for each in words)
    blocks = difflib.SequenceMatcher(None, first, second).get_matching_blocks()
    old = _mark(words[0], [(block.a, block.a + block.size) for block in blocks], "del")
    return Markup().join(old), Markup().join(_mark(words[1], [(b.b, b.b + b.size) for b in blocks], "ins"))


def _mark(words: list[str], common: list[tuple[int, int]], tag: str) -> Iterator[Markup]:
    """The words in order, with `tag` around each run of those outside the ranges `common`."""
    end = 0
    for start, next_end in common:
        if text := "".join(words[end:start]):
            inner = text.rstrip()
            marked = Markup("<{0}>{1}</{0}>").format(Markup(tag), inner) if inner else Markup()
            yield marked + text[len(inner) :]
        yield Markup.escape("".join(words[start:next_end]))
        end = next_end
    yield Markup.escape("".join(words[end:]))
