"""Differences of models against values worked out by hand, and the split of a gain against every order of changes."""

import itertools
import math
import random

import pytest

from ossft_ray.method.comparison import Comparison, Gain, average, compare, factors, split_gain
from ossft_ray.method.metrics import Sample, score

RIGHT, WRONG = Sample(True, "1"), Sample(False, "2")
NO_ANSWER = Sample(False, None)  # it ended by itself
CUT = Sample(False, None, finished=False)
CUT_RIGHT, CUT_WRONG = Sample(True, "1", finished=False), Sample(False, "2", finished=False)


def test_a_difference_worked_out_by_hand() -> None:
    before = [[RIGHT, WRONG], [WRONG, WRONG], [RIGHT, RIGHT]]
    after = [[RIGHT, RIGHT], [WRONG, WRONG], [RIGHT, RIGHT]]
    found = compare(before, after)
    # differences 1/2, 0, 0: mean 1/6, standard deviation sqrt(1/12), over sqrt(3) problems: 1/6
    assert (found.difference, found.stderr) == (pytest.approx(1 / 6), pytest.approx(1 / 6))
    # two degrees of freedom: t_.975 = 4.302653, t_.80 = 1.060660
    assert (found.low, found.high) == (pytest.approx((1 - 4.302653) / 6), pytest.approx((1 + 4.302653) / 6))
    assert found.smallest_detectable == pytest.approx((4.302653 + 1.060660) / 6)
    assert found.gain == Gain(0.0, 0.0, pytest.approx(1 / 6))


@pytest.mark.parametrize(
    "before, after, low, high, detectable",
    [
        # every problem gains 1/2: no error, and not less than one of the four samples can be seen
        ([[RIGHT, WRONG]] * 2, [[RIGHT, RIGHT]] * 2, 0.5, 0.5, 1 / 4),
        # one problem tells nothing of the error
        ([[RIGHT, WRONG]], [[RIGHT, RIGHT]], -1.0, 1.0, 1.0),
        # two problems: 1/2 ± 12.7 · 1/2, cut to what can be
        ([[WRONG], [WRONG]], [[RIGHT], [WRONG]], -1.0, 1.0, 1.0),
    ],
)
def test_intervals_at_the_edge(
    before: list[list[Sample]], after: list[list[Sample]], low: float, high: float, detectable: float
) -> None:
    found = compare(before, after)
    assert (found.low, found.high, found.smallest_detectable) == (low, high, detectable)


@pytest.mark.parametrize(
    "before, after, gain",
    [
        # only one factor changes, all else full: it has the whole gain
        ([CUT, RIGHT], [RIGHT, RIGHT], (0.5, 0.0, 0.0)),
        ([NO_ANSWER, RIGHT], [RIGHT, RIGHT], (0.0, 0.5, 0.0)),
        ([WRONG, RIGHT], [RIGHT, RIGHT], (0.0, 0.0, 0.5)),
        # what follows an answer costs nothing: to end by itself gains nothing then
        ([CUT_RIGHT, RIGHT], [RIGHT, RIGHT], (0.0, 0.0, 0.0)),
        ([CUT_RIGHT, CUT_WRONG], [RIGHT, WRONG], (0.0, 0.0, 0.0)),
        ([CUT_WRONG, RIGHT], [RIGHT, RIGHT], (0.0, 0.0, 0.5)),
        # nothing ended, so of form and solving nothing is known before
        ([CUT, CUT], [RIGHT, WRONG], (0.5, 0.0, 0.0)),
        ([NO_ANSWER, NO_ANSWER], [RIGHT, WRONG], (0.0, 0.5, 0.0)),
        ([CUT, CUT], [CUT, CUT], (0.0, 0.0, 0.0)),
        # factors 1/2, 1, 1/2 and 1, 1, 1: (1/2)((1/2 + 1)/3 + (1 + 1/2)/6) = 3/8, as much for solving
        ([CUT, CUT, RIGHT, WRONG], [RIGHT] * 4, (0.375, 0.0, 0.375)),
        # the same the other way round
        ([RIGHT] * 4, [CUT, CUT, RIGHT, WRONG], (-0.375, 0.0, -0.375)),
    ],
)
def test_gain_worked_out_by_hand(before: list[Sample], after: list[Sample], gain: tuple[float, ...]) -> None:
    found = compare([before], [after]).gain
    assert (found.stopping, found.form, found.solving) == pytest.approx(gain)


def product(values: list[float]) -> float:
    return values[0] * values[1] * values[2]


@pytest.mark.parametrize("seed", range(20))
def test_gain_is_the_mean_over_all_orders_and_adds_up(seed: int) -> None:
    rng = random.Random(seed)
    kinds = [RIGHT, WRONG, NO_ANSWER, CUT, CUT_RIGHT, CUT_WRONG]
    before, after = ([[rng.choice(kinds) for _ in range(4)] for _ in range(8)] for _ in range(2))
    a, b = (
        [
            sum(s.finished or s.extracted is not None for s in flat) / 32,
            sum(s.extracted is not None for s in flat) / sum(s.finished or s.extracted is not None for s in flat),
            sum(s.correct for s in flat) / sum(s.extracted is not None for s in flat),
        ]
        for flat in ([s for row in rows for s in row] for rows in (before, after))
    )
    parts = [0.0, 0.0, 0.0]
    for order in itertools.permutations(range(3)):
        current = list(a)
        for factor in order:
            was = product(current)
            current[factor] = b[factor]
            parts[factor] += (product(current) - was) / 6
    found = compare(before, after)
    assert (found.gain.stopping, found.gain.form, found.gain.solving) == pytest.approx(tuple(parts))
    assert sum(parts) == pytest.approx(score(after).avg - score(before).avg) == pytest.approx(found.difference)
    assert found.gain.stopping + found.gain.form + found.gain.solving == pytest.approx(found.difference, abs=1e-15)


def test_factors_multiply_to_the_accuracy() -> None:
    assert factors(0.8, 0.4, 0.1) == (0.8, 0.5, 0.25)
    assert factors(0.0, 0.0, 0.0) == (0.0, None, None)
    assert split_gain((0.0, None, None), (0.0, None, None), 0.0) == Gain(0.0, 0.0, 0.0)


def one(difference: float, stderr: float, degrees: int, stopping: float = 0.0) -> Comparison:
    gain = Gain(stopping, 0.0, difference - stopping)
    return Comparison(difference, stderr, -1.0, 1.0, 1.0, gain, degrees, 0.01)


def test_average_of_independent_benchmarks() -> None:
    found = average([one(0.1, 0.03, 29, stopping=0.05), one(0.3, 0.04, 39)])
    assert (found.difference, found.stderr) == (pytest.approx(0.2), pytest.approx(0.05 / 2))
    # Welch and Satterthwaite: (0.0009 + 0.0016)² / (0.0009² / 29 + 0.0016² / 39) = 66.8; t_.975 with 66 is 1.99656
    assert found.degrees == 66
    assert found.high == pytest.approx(0.2 + 1.99656 * 0.025, abs=1e-6)
    assert found.gain == Gain(pytest.approx(0.025), 0.0, pytest.approx(0.175))


@pytest.mark.parametrize(
    "comparisons, degrees",
    [
        ([one(0.1, 0.02, 7)], 7),
        ([one(0.1, 0.02, 7), one(0.1, 0.02, 7)], 14),
        ([one(0.1, 0.0, 7), one(0.1, 0.0, 3)], 10),
        ([one(0.1, 0.02, 7), one(0.1, 0.0, 3)], 7),
        ([one(0.1, 0.02, 7), one(0.1, 0.0, 0)], 0),
    ],
)
def test_degrees_of_freedom_of_an_average(comparisons: list[Comparison], degrees: int) -> None:
    assert average(comparisons).degrees == degrees


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """400 made-up evaluations of 30 problems whose true difference is 0.1: some 95% of the intervals hold it."""
    rng = random.Random(1)
    held = 0
    for _ in range(400):
        rates = [rng.uniform(0.1, 0.8) for _ in range(30)]
        before, after = (
            [[Sample(rng.random() < rate + more, None) for _ in range(4)] for rate in rates] for more in (0.0, 0.1)
        )
        found = compare(before, after)
        held += found.low <= 0.1 <= found.high
    assert 0.92 <= held / 400 <= 0.98


def test_models_with_other_numbers_of_problems_are_not_compared() -> None:
    with pytest.raises(ValueError, match="argument 2"):
        compare([[RIGHT]], [[RIGHT], [RIGHT]])


def test_degrees_are_not_lost_to_rounding() -> None:
    assert all(average([one(0.0, math.sqrt(n), n)] * 3).degrees == 3 * n for n in range(1, 50))
