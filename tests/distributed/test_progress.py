"""What the driver knows of its workers: sums over lives and parts, each counted once, and how often they tell."""

from typing import Any

import pytest

from ossft_ray.distributed.progress import Tally

Told = tuple[str, str, dict[str, int], dict[str, dict[str, int]]]  # actor, life, its counts, those of parts under way


def tally() -> Any:
    return Tally.__ray_metadata__.modified_class()


@pytest.mark.parametrize(
    "told, expected",
    [
        ([], {"policies": 0}),
        (
            [("a", "a1", {"tokens": 5}, {"p1": {"problems": 1}}), ("b", "b1", {"tokens": 7}, {"p2": {"problems": 2}})],
            {"policies": 2, "tokens": 12, "problems": 3},
        ),
        (
            [("a", "a1", {"tokens": 5}, {"p1": {"problems": 1}}), ("a", "a1", {"tokens": 9}, {"p1": {"problems": 4}})],
            {"policies": 1, "tokens": 9, "problems": 4},
        ),
        (
            [("a", "a1", {"tokens": 5}, {"p1": {"problems": 3}}), ("a", "a2", {"tokens": 2}, {"p1": {"problems": 1}})],
            {"policies": 1, "tokens": 7, "problems": 1},
        ),
        (
            [("a", "a1", {"tokens": 5}, {"p1": {"problems": 3}}), ("a", "a1", {"tokens": 6}, {})],
            {"policies": 1, "tokens": 6, "problems": 3},
        ),
    ],
    ids=["nobody", "two workers", "the latest counts", "another life takes a part up", "a finished part stays"],
)
def test_totals(told: list[Told], expected: dict[str, int]) -> None:
    kept = tally()
    for actor, life, counts, parts in told:
        kept.put(actor, life, counts, parts, [])
    assert kept.totals() == expected


@pytest.mark.parametrize("num_workers, seconds", [(1, 0.5), (100, 0.5), (1000, 5.0)])
def test_the_more_workers_the_less_often_each_tells(num_workers: int, seconds: float) -> None:
    kept = tally()
    for number in range(num_workers):
        after = kept.put(f"actor{number}", f"life{number}", {}, {}, [])
    assert after == seconds
