"""Intervals of the four-way experiment: against values worked out by hand, and against simulation."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from fourway.statistics import Estimate, estimate, student_quantile


@pytest.mark.parametrize("freedom, expected", [(1, 12.706), (2, 4.303), (5, 2.571), (30, 2.042), (10_000, 1.960)])
def test_student_quantile(freedom: float, expected: float) -> None:
    assert student_quantile(freedom) == pytest.approx(expected, abs=2e-3)


def test_one_seed_counts_problems_alone() -> None:
    values_SLP = np.array([[[0.0, 0.5, 1.0, 0.5]]])
    error = np.std([0.0, 0.5, 1.0, 0.5], ddof=1) / 2
    assert estimate(values_SLP) == Estimate(0.5, pytest.approx(3.182 * error, rel=1e-3))


@pytest.mark.parametrize("seed_deviation, problem_deviation", [(0.1, 0.3), (0.3, 0.1), (0.0, 0.3), (0.2, 0.0)])
def test_intervals_cover(seed_deviation: float, problem_deviation: float) -> None:
    """The true mean, 0, lies in about 95% of the intervals, whichever varies more; 90% where little is averaged."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        values_SLP = rng.normal(0, seed_deviation, (3, 1, 1)) + rng.normal(0, problem_deviation, (1, 2, 20))
        values_SLP = values_SLP + rng.normal(0, 0.1, (3, 2, 20))
        covered.append(not estimate(values_SLP).is_clear)
    assert np.mean(covered) > 0.9
