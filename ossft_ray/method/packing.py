"""Packing: examples into rows, and rows into forward passes, as plain lists of indices."""

from bisect import bisect_left, insort
from collections.abc import Sequence

Row = list[int]  # indices of its examples, in order
MicroBatch = list[Row]  # rows of one forward pass, padded to the longest


def pack_rows(lengths: Sequence[int], capacity: int) -> list[Row]:
    """Best-fit-decreasing bin packing: each example, longest first, goes into the fullest row with space for it.

    Args:
        lengths: tokens of each example.
        capacity: tokens a row may hold.

    Raises:
        ValueError: an example is longer than `capacity`.
    """
    rows: list[Row] = []
    free: list[tuple[int, int]] = []  # (tokens left, row), sorted
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        length = lengths[index]
        if length > capacity:
            raise ValueError(f"example {index} has {length} tokens, more than a row's {capacity}")
        position = bisect_left(free, (length, -1))
        if position == len(free):
            rows.append([])
            left, row = capacity, len(rows) - 1
        else:
            left, row = free.pop(position)
        rows[row].append(index)
        insort(free, (left - length, row))
    return rows


def plan_micro_batches(lengths: Sequence[int], max_tokens: int, row_tokens: int, packing: bool) -> list[MicroBatch]:
    """Split one global batch into forward passes of at most `max_tokens` with padding, longest rows first.

    Args:
        lengths: tokens of each example of the batch; at least one.
        max_tokens: the most that a forward pass holds; a longer example is a pass by itself.
        row_tokens: the most that a packed row holds, because the cost of attention grows with a row's length.
        packing: whether examples share rows; otherwise each is a row.
    """
    capacity = max(min(row_tokens, max_tokens), max(lengths))
    rows = pack_rows(lengths, capacity) if packing else [[index] for index in range(len(lengths))]
    rows.sort(key=lambda row: -_num_tokens(row, lengths))
    micro_batches: list[MicroBatch] = []
    for row in rows:
        last = micro_batches[-1] if micro_batches else []
        if last and (len(last) + 1) * _num_tokens(last[0], lengths) <= max_tokens:
            last.append(row)
        else:
            micro_batches.append([row])
    return micro_batches


def padding_share(micro_batches: Sequence[MicroBatch], lengths: Sequence[int]) -> float:
    """The share of all positions that hold padding, 0..1."""
    positions = sum(len(rows) * max(_num_tokens(row, lengths) for row in rows) for rows in micro_batches)
    tokens = sum(_num_tokens(row, lengths) for rows in micro_batches for row in rows)
    return 1 - tokens / positions if positions else 0.0


def _num_tokens(row: Row, lengths: Sequence[int]) -> int:
    return sum(lengths[index] for index in row)
