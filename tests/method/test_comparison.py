"""Differences of models against values worked out by hand, and intervals against simulated evaluations."""

import math
import random

import pytest

from ossft_ray.method.comparison import Comparison, average, compare
from ossft_ray.method.metrics import Sample

RIGHT, WRONG = Sample(True, "1"), Sample(False, "2")


def test_a_difference_worked_out_by_hand() -> None:
    before = [[RIGHT, WRONG], [WRONG, WRONG], [RIGHT, RIGHT]]
    after = [[RIGHT, RIGHT], [WRONG, WRONG], [RIGHT, RIGHT]]
    found = compare(before, after)
    # differences 1/2, 0, 0: mean 1/6, standard deviation sqrt(1/12), over sqrt(3) problems: 1/6
    assert (found.difference, found.stderr) == (pytest.approx(1 / 6), pytest.approx(1 / 6))
    # two degrees of freedom: t_.975 = 4.302653, t_.80 = 1.060660
    assert (found.low, found.high) == (pytest.approx((1 - 4.302653) / 6), pytest.approx((1 + 4.302653) / 6))
    assert found.smallest_detectable == pytest.approx((4.302653 + 1.060660) / 6)


@pytest.mark.parametrize(
    "before, after, low, high, detectable",
    [
        # every problem gains 1/2: no error, and one sample of four is the least that can be detected
        ([[RIGHT, WRONG]] * 2, [[RIGHT, RIGHT]] * 2, 0.5, 0.5, 1 / 4),
        # one problem says nothing about the error
        ([[RIGHT, WRONG]], [[RIGHT, RIGHT]], -1.0, 1.0, 1.0),
        # two problems: 1/2 ± 12.7 · 1/2, cut to -1..1
        ([[WRONG], [WRONG]], [[RIGHT], [WRONG]], -1.0, 1.0, 1.0),
    ],
)
def test_intervals_at_the_edge(
    before: list[list[Sample]], after: list[list[Sample]], low: float, high: float, detectable: float
) -> None:
    found = compare(before, after)
    assert (found.low, found.high, found.smallest_detectable) == (low, high, detectable)


def comparison(difference: float, stderr: float, degrees: int) -> Comparison:
    return Comparison(difference, stderr, -1.0, 1.0, 1.0, degrees, 0.01)


def test_average_of_independent_benchmarks() -> None:
    found = average([comparison(0.1, 0.03, 29), comparison(0.3, 0.04, 39)])
    assert (found.difference, found.stderr) == (pytest.approx(0.2), pytest.approx(0.05 / 2))
    # Welch and Satterthwaite: (0.0009 + 0.0016)² / (0.0009² / 29 + 0.0016² / 39) = 66.8; t_.975 with 66 is 1.99656
    assert found.degrees_of_freedom == 66
    assert found.high == pytest.approx(0.2 + 1.99656 * 0.025, abs=1e-6)


@pytest.mark.parametrize(
    "comparisons, degrees",
    [
        ([comparison(0.1, 0.02, 7)], 7),
        ([comparison(0.1, 0.02, 7), comparison(0.1, 0.02, 7)], 14),
        ([comparison(0.1, 0.0, 7), comparison(0.1, 0.0, 3)], 10),
        ([comparison(0.1, 0.02, 7), comparison(0.1, 0.0, 3)], 7),
        ([comparison(0.1, 0.02, 7), comparison(0.1, 0.0, 0)], 0),
    ],
)
def test_degrees_of_freedom_of_an_average(comparisons: list[Comparison], degrees: int) -> None:
    assert average(comparisons).degrees_of_freedom == degrees


def test_intervals_cover_the_true_difference_in_95_percent_of_cases() -> None:
    """400 simulated evaluations of 30 problems, with a true difference of 0.1."""
    rng = random.Random(1)
    num_covered = 0
    for _ in range(400):
        rates = [rng.uniform(0.1, 0.8) for _ in range(30)]
        before, after = (
            [[Sample(rng.random() < rate + more, None) for _ in range(4)] for rate in rates] for more in (0.0, 0.1)
        )
        found = compare(before, after)
        num_covered += found.low <= 0.1 <= found.high
    assert 0.92 <= num_covered / 400 <= 0.98


def test_models_with_different_numbers_of_problems_are_not_compared() -> None:
    with pytest.raises(ValueError, match="argument 2"):
        compare([[RIGHT]], [[RIGHT], [RIGHT]])


def test_degrees_are_not_lost_to_rounding() -> None:
    assert all(average([comparison(0.0, math.sqrt(n), n)] * 3).degrees_of_freedom == 3 * n for n in range(1, 50))
