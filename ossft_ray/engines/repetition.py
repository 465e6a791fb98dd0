"""Endless repetition in a response: whether it seems to have begun, and the token at which the response is cut.

vLLM can look for repetition too, but it does so in Python, after every token of every request, in the thread that feeds
the GPU. Here a response is cut once it has ended. The cut depends on its tokens alone.
"""

from collections.abc import Sequence

import numpy as np

_LENGTHS = range(4, 65)  # of a repeated sequence, in tokens


def seems_to_repeat(token_ids: Sequence[int]) -> bool:
    """Whether the last few tokens also occur shortly before: a quick check of an unfinished response."""
    size = _LENGTHS.start
    tail = token_ids[-size:]
    return any(token_ids[-size - length : -length] == tail for length in _LENGTHS)


def repetition_end(token_ids: Sequence[int], max_repeats: int) -> int | None:
    """The number of tokens up to where 4 to 64 of them first occur `max_repeats` times in a row; None if none do.

    A `max_repeats` below 2 allows everything.

    >>> repetition_end([9, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 1], max_repeats=3)
    13
    """
    tokens = np.asarray(token_ids)
    ends = []
    for length in _LENGTHS if max_repeats > 1 else ():
        num_equal = length * (max_repeats - 1)  # this many tokens in a row equal the ones `length` before them
        if length + num_equal > len(tokens):
            break
        later, earlier = tokens[length:], tokens[:-length]
        if not (later[::num_equal] == earlier[::num_equal]).any():  # a run that long would include one of these
            continue
        starts = np.concatenate(([0], np.flatnonzero(later != earlier) + 1))
        runs = np.diff(starts, append=len(later) + 1) - 1
        ends += [length + num_equal + int(start) for start in starts[runs >= num_equal][:1]]
    return min(ends, default=None)
