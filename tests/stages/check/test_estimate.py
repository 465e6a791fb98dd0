"""What a sample says of the whole: against formulas written by hand, and against drawing samples many times."""

import math
import random
from statistics import fmean, stdev

import pytest

from ossft_ray.stages.check.estimate import Interval, Reservoir, share, total

T_9 = 2.2621571627409915  # Student's t, 9 degrees of freedom, 0.975


@pytest.mark.parametrize(
    "values, population, expected",
    [
        ([1.0, 2.0, 3.0], 3, (6, 6, 6)),
        ([5.0], 1, (5, 5, 5)),
        ([5.0], 4, (20, 5, math.inf)),
        ([2.0, 2.0], 10, (20, 20, 20)),
        ([0.0, 10.0], 4, (20, 10, None)),  # no less than what was seen
    ],
    ids=["everything", "one of one", "one of many", "no variation", "at least the sample"],
)
def test_total(values: list[float], population: int, expected: tuple[float, float, float | None]) -> None:
    found = total(values, population)
    assert (found.value, found.low) == (pytest.approx(expected[0]), pytest.approx(expected[1]))
    if expected[2] is not None:
        assert found.high == pytest.approx(expected[2])


def test_total_is_students_t_with_the_finite_population_correction() -> None:
    values, population = [float(v) for v in (3, 1, 4, 1, 5, 9, 2, 6, 5, 3)], 40
    reach = T_9 * 40 * stdev(values) / math.sqrt(10) * math.sqrt(1 - 10 / 40)
    found = total(values, population)
    assert found.value == pytest.approx(40 * 3.9)
    assert found.high - found.value == pytest.approx(reach, rel=1e-6)
    assert found.value - found.low == pytest.approx(reach, rel=1e-6)


@pytest.mark.parametrize(
    "count, num, population, low, high",
    [
        # R's prop.test without continuity correction gives these for an infinite population
        (10, 20, 10**9, 0.2992980, 0.7007020),
        (0, 10, 10**9, 0.0, 0.2775328),
        (10, 10, 10**9, 0.7224672, 1.0),
        (3, 10, 10, 0.3, 0.3),
    ],
)
def test_share(count: int, num: int, population: int, low: float, high: float) -> None:
    found = share(count, num, population)
    assert found.value == count / num
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))


def test_a_larger_part_of_the_population_tells_more() -> None:
    widths = [share(10, 20, population).high - share(10, 20, population).low for population in (10**9, 200, 40, 21)]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.4 * widths[0]


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = random.Random(0)
    population = [rng.lognormvariate(0, 0.5) for _ in range(200)]
    is_large = [value > 1.2 for value in population]
    held = {"total": 0, "share": 0}
    for _ in range(1000):
        chosen = rng.sample(range(200), 48)
        found = total([population[index] for index in chosen], 200)
        held["total"] += found.low <= sum(population) <= found.high
        part = share(sum(is_large[index] for index in chosen), 48, 200)
        held["share"] += part.low <= fmean(is_large) <= part.high
    assert 920 <= held["total"] <= 975
    assert 930 <= held["share"] <= 975


@pytest.mark.parametrize("function", [lambda: total([], 3), lambda: total([1.0, 2.0], 1), lambda: share(0, 0, 5)])
def test_impossible_samples_are_refused(function: object) -> None:
    with pytest.raises(ValueError, match="a sample of"):
        function()  # type: ignore[operator]


def test_arithmetic_of_intervals() -> None:
    one, other = Interval(2, 1, 4), Interval(10, 5, 20)
    assert one + other == Interval(12, 6, 24)
    assert one.times(other) == Interval(20, 5, 80)
    assert one.times(3) == Interval(6, 3, 12)


def test_a_reservoir_is_a_uniform_sample_in_order() -> None:
    counts = [0] * 10
    for seed in range(4000):
        reservoir: Reservoir[int] = Reservoir(3, random.Random(seed))
        for item in range(10):
            reservoir.offer(item)
        sample = reservoir.sample()
        assert len(set(sample)) == 3 and sample == sorted(sample)
        for item in sample:
            counts[item] += 1
    # each is drawn with probability 0.3; five standard deviations
    assert max(abs(count - 1200) for count in counts) < 5 * math.sqrt(4000 * 0.3 * 0.7)


@pytest.mark.parametrize("size, expected", [(0, []), (2, [0, 1]), (5, [0, 1])])
def test_a_reservoir_larger_than_the_stream_keeps_all(size: int, expected: list[int]) -> None:
    reservoir: Reservoir[int] = Reservoir(size, random.Random(0))
    for item in range(2):
        reservoir.offer(item)
    assert reservoir.sample() == expected
