"""Differences of models against values worked out by hand, and intervals against simulated evaluations."""

import math

import numpy as np
import pytest
from scipy.stats import beta

from ossft_ray.method.comparison import Comparison, average, compare, difference_interval
from ossft_ray.method.metrics import Sample

RIGHT, WRONG = Sample(True, "1"), Sample(False, "2")


def exact_end(num_problems: int, student: float) -> float:
    """The upper end if none of `num_problems` is right: 1 - 0.025^(1/n), n reduced by the squared quantile ratio."""
    return 1 - 0.025 ** (1 / (num_problems * (1.959964 / student) ** 2))


def test_a_difference_worked_out_by_hand() -> None:
    before = [[RIGHT, WRONG], [WRONG, WRONG], [RIGHT, RIGHT]]
    after = [[RIGHT, RIGHT], [WRONG, WRONG], [RIGHT, RIGHT]]
    found = compare(before, after)
    # differences 1/2, 0, 0: mean 1/6, standard deviation sqrt(1/12), over sqrt(3) problems: 1/6
    assert (found.difference, found.stderr) == (pytest.approx(1 / 6), pytest.approx(1 / 6))
    # gains have 1/6 and squares 1/6, of at most 2 · 5/36; with the prior of 1/2, the effective problems are
    # n = 3 · (5/18 + 1/2) / (1/6 + 1/2) · (1.96 / 4.3027)² = 0.72624. Losses are none of 0.62247: 0 to 1 - 0.025^(1/n).
    n = 3 * (5 / 18 + 1 / 2) / (1 / 6 + 1 / 2) * (1.959964 / 4.302653) ** 2
    low, high = beta.ppf(0.025, n / 6, n * 5 / 6 + 1), beta.ppf(0.975, n / 6 + 1, n * 5 / 6)
    assert found.low == pytest.approx(1 / 6 - math.hypot(1 / 6 - low, exact_end(3, 4.302653)), abs=1e-5)
    assert found.high == pytest.approx(high, abs=1e-5)


@pytest.mark.parametrize(
    "num_problems, student, detectable", [(30, 2.04523, 0.179), (200, 1.97196, 0.0264), (500, 1.96473, 0.0106)]
)
def test_identical_answers_leave_room_for_a_difference(num_problems: int, student: float, detectable: float) -> None:
    """No difference is seen, but rare ones may exist. Some 500 problems detect a gain of one point, not of 0.2."""
    found = compare([[RIGHT, WRONG]] * num_problems, [[RIGHT, WRONG]] * num_problems)
    assert (found.difference, found.stderr) == (0.0, 0.0)
    assert (found.low, found.high) == (
        pytest.approx(-found.high),
        pytest.approx(exact_end(num_problems, student), rel=1e-4),
    )
    assert found.smallest_detectable == pytest.approx(found.high * (1.959964 + 0.841621) / 1.959964, rel=1e-4)
    assert found.smallest_detectable == pytest.approx(detectable, rel=0.01)


def test_the_same_gain_everywhere_has_an_interval() -> None:
    found = compare([[RIGHT, WRONG]] * 40, [[RIGHT, RIGHT]] * 40)
    assert (found.difference, found.stderr) == (0.5, 0.0)
    assert 0.35 < found.low < 0.45 and 0.52 < found.high < 0.65


def test_one_problem_says_nothing_about_the_error() -> None:
    found = compare([[RIGHT, WRONG]], [[RIGHT, RIGHT]])
    assert (found.low, found.high, found.smallest_detectable) == (-1.0, 1.0, 1.0)


def test_swapping_the_models_swaps_gains_and_losses() -> None:
    first, second = [[RIGHT, WRONG]] * 9 + [[WRONG, WRONG]], [[RIGHT, RIGHT]] * 6 + [[WRONG, WRONG]] * 4
    found, turned = compare(first, second), compare(second, first)
    assert (found.low, found.high) == (pytest.approx(-turned.high), pytest.approx(-turned.low))


def test_average_of_independent_benchmarks() -> None:
    found = average([Comparison(0.1, 0.03, 0.04, 0.18, 0.1), Comparison(0.3, 0.04, 0.27, 0.36, 0.1)])
    assert (found.difference, found.stderr) == (pytest.approx(0.2), pytest.approx(0.05 / 2))
    # below: 0.06 and 0.03; above: 0.08 and 0.06
    assert found.low == pytest.approx(0.2 - math.hypot(0.06, 0.03) / 2)
    assert found.high == pytest.approx(0.2 + 0.10 / 2)
    assert found.smallest_detectable == pytest.approx(1.429406 * (found.high - found.low) / 2, rel=1e-5)


@pytest.mark.parametrize("num_samples", [8, 16])
@pytest.mark.parametrize("num_problems", [30, 500])
@pytest.mark.parametrize("solved, truth", [(0.0, 0.0), (0.02, 0.0196), (0.2, 0.196)])
def test_intervals_cover_the_true_difference(num_problems: int, num_samples: int, solved: float, truth: float) -> None:
    """A base of 2%, all or nothing, and a model that solves a share of the problems: Student's misses half of them."""
    rng = np.random.default_rng(0)
    before = (rng.random((2000, num_problems)) < 0.02).astype(float)
    after = np.where(rng.random(before.shape) < solved, 1.0, before)
    low, high = difference_interval(rng.binomial(num_samples, after) / num_samples - before)
    assert np.mean((low <= truth) & (truth <= high)) >= 0.93


def test_intervals_stay_narrow_on_informative_problems() -> None:
    """With 500 problems of mixed difficulty, within 7% of Student's."""
    rng = np.random.default_rng(0)
    rates = rng.beta(1, 1, 500)
    drawn = (rng.binomial(8, rates) - rng.binomial(8, rates)) / 8
    low, high = difference_interval(drawn)
    assert high - low == pytest.approx(2 * 1.9647 * drawn.std(ddof=1) / math.sqrt(500), rel=0.07)


def test_models_with_different_numbers_of_problems_are_not_compared() -> None:
    with pytest.raises(ValueError, match="argument 2"):
        compare([[RIGHT]], [[RIGHT], [RIGHT]])
