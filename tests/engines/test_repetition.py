"""Endless repetition is cut where a plain check of the definition after each token cuts it."""

import random
from collections.abc import Sequence

import pytest

from ossft_ray.engines.repetition import repetition_end, seems_to_repeat


def plain_end(tokens: Sequence[int], max_repeats: int) -> int | None:
    def repeats(end: int) -> bool:
        last = tokens[:end]
        sizes = range(4, min(64, end // max_repeats) + 1)
        return any(last[-size * max_repeats :] == last[-size:] * max_repeats for size in sizes)

    return next((end for end in range(1, len(tokens) + 1) if repeats(end)), None)


@pytest.mark.parametrize(
    "tokens, max_repeats, end",
    [
        ([], 16, None),
        ([1, 2, 3, 4] * 15 + [1, 2, 3], 16, None),
        ([1, 2, 3, 4] * 16, 16, 64),
        ([7] * 100, 16, 64),
        ([9, 9, 8] + [1, 2, 3, 4, 5] * 20 + [6, 7], 16, 83),
        (list(range(64)) * 16, 16, 1024),
        (list(range(65)) * 16, 16, None),
        ([1, 2, 3] * 30, 16, None),
        ([1, 2, 3] * 64, 16, 96),  # as six tokens
        ([1, 2, 3, 4] * 50, 0, None),
        ([1, 2, 3, 4] * 50, 1, None),
        ([1, 2, 3, 4] * 2, 2, 8),
    ],
)
def test_repetition_end(tokens: list[int], max_repeats: int, end: int | None) -> None:
    assert repetition_end(tokens, max_repeats) == end


def test_the_cut_follows_the_definition() -> None:
    rng, num_cut = random.Random(0), 0
    for _ in range(400):
        tokens = [rng.randrange(4) for _ in range(rng.randrange(30))]
        for _ in range(rng.randrange(3)):
            pattern = [rng.randrange(4) for _ in range(rng.randrange(1, 70))]
            tokens += [*(pattern * 20)[: rng.randrange(20 * len(pattern))], rng.randrange(4)]
        max_repeats = rng.choice([2, 3, 16])
        end = repetition_end(tokens[:600], max_repeats)
        assert end == plain_end(tokens[:600], max_repeats), (tokens[:600], max_repeats)
        num_cut += end is not None
    assert 100 < num_cut < 300, "both cases are frequent"


@pytest.mark.parametrize("size", [4, 5, 64])
def test_a_quick_look_sees_repetition_at_the_end(size: int) -> None:
    rng = random.Random(size)
    fresh, pattern = ([rng.randrange(10**6) for _ in range(num)] for num in (500, size))
    assert not seems_to_repeat(fresh)
    assert all(seems_to_repeat(fresh + (pattern * 3)[: 2 * size + extra]) for extra in range(size))
