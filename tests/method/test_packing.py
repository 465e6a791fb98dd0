"""Packing examples into rows, and rows into forward passes."""

import random

import pytest

from ossft_ray.method.packing import pack_rows, padding_share, plan_micro_batches


@pytest.mark.parametrize(
    "lengths, capacity, expected",
    [
        ([], 10, []),
        ([10], 10, [[0]]),
        ([4, 6], 10, [[1, 0]]),
        ([6, 6], 10, [[0], [1]]),
        ([7, 5, 3, 5], 10, [[0, 2], [1, 3]]),
        ([8, 7, 2], 10, [[0, 2], [1]]),  # best fit: the row with 2 left, not the one with 3
        ([5, 8, 2, 5], 10, [[1, 2], [0, 3]]),  # longest first
        ([1, 1, 1], 2, [[0, 1], [2]]),
    ],
)
def test_pack_rows(lengths: list[int], capacity: int, expected: list[list[int]]) -> None:
    assert pack_rows(lengths, capacity) == expected


def test_an_example_that_fits_no_row_is_an_error() -> None:
    with pytest.raises(ValueError, match="example 1 has 11 tokens"):
        pack_rows([3, 11], 10)


def test_pack_rows_loses_nothing_and_packs_well() -> None:
    rng = random.Random(0)
    lengths = [rng.randint(20, 900) for _ in range(2000)]
    rows = pack_rows(lengths, 2048)
    assert sorted(index for row in rows for index in row) == list(range(2000))
    assert all(sum(lengths[index] for index in row) <= 2048 for row in rows)
    assert len(rows) <= 1.02 * sum(lengths) / 2048


@pytest.mark.parametrize(
    "lengths, max_tokens, row_tokens, packing, expected",
    [
        ([5, 5, 5, 5], 10, 10, True, [[[0, 1]], [[2, 3]]]),
        ([5, 5, 5, 5], 20, 10, True, [[[0, 1], [2, 3]]]),  # rows stay short, and a pass holds several
        ([5, 5, 5, 5], 10, 100, True, [[[0, 1]], [[2, 3]]]),
        ([30, 4], 10, 10, True, [[[0]], [[1]]]),
        ([4, 9, 5], 10, 10, False, [[[1]], [[2], [0]]]),
        ([4, 9, 5], 27, 10, False, [[[1], [2], [0]]]),  # padded to 9, 27 places
        ([4, 9, 5], 26, 10, False, [[[1], [2]], [[0]]]),
        ([30, 4], 10, 10, False, [[[0]], [[1]]]),  # longer than a pass may be: a pass by itself
    ],
)
def test_plan_micro_batches(lengths, max_tokens, row_tokens, packing, expected) -> None:
    assert plan_micro_batches(lengths, max_tokens, row_tokens, packing) == expected


@pytest.mark.parametrize(
    "micro_batches, lengths, expected",
    [([], [], 0.0), ([[[0, 1]]], [3, 7], 0.0), ([[[0], [1]]], [5, 10], 0.25), ([[[0]], [[1]]], [5, 10], 0.0)],
)
def test_padding_share(micro_batches, lengths, expected: float) -> None:
    assert padding_share(micro_batches, lengths) == pytest.approx(expected)
