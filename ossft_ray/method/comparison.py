"""Paired comparison of two models on the same problems. Values are in 0..1, `after` less `before`.

**Difference.** A problem's difference is a gain, a loss, or zero. The mean difference is the mean gain less the mean
loss, each with the interval of a mean over problems (`metrics.mean_interval`), and the interval of the difference
combines theirs, using their correlation over problems (MOVER: Zou and Donner 2008). So it neither vanishes where no
problem changed nor misses rare problems that are entirely won or lost.

**Smallest detectable difference**: the one that a two-sided test at 5% finds in 80% of repetitions, half the width of
the interval times (z_.975 + z_.80) / z_.975.

Both are about these two models. Training runs with other seeds differ by more.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from scipy.special import ndtri

from ossft_ray.method.metrics import LEVEL, PRIOR_SQUARES, Samples, mean_interval, paired_difference

POWER = 0.80
_DETECTABLE = 1 + float(ndtri(POWER) / ndtri((1 + LEVEL) / 2))


@dataclass(frozen=True)
class Comparison:
    """The difference of one model from another on the same problems."""

    difference: float
    stderr: float
    low: float  # of the 95% confidence interval
    high: float
    smallest_detectable: float


def compare(before: Samples, after: Samples) -> Comparison:
    """Compare two models on one benchmark, from graded samples of the same problems in the same order.

    Raises:
        ValueError: there is no sample, or the numbers of problems differ.
    """
    means = [[fmean(sample.correct for sample in row) for row in samples] for samples in (before, after)]
    difference, error = paired_difference(*means)
    low, high = difference_interval(np.subtract(means[1], means[0]))
    return _comparison(difference, error, float(low), float(high))


def average(comparisons: Sequence[Comparison]) -> Comparison:
    """The mean over independent benchmarks of equal weight. The distances to the interval's ends add in quadrature."""
    difference = fmean(each.difference for each in comparisons)
    error, below, above = (
        math.hypot(*distances) / len(comparisons)
        for distances in zip(
            *((each.stderr, each.difference - each.low, each.high - each.difference) for each in comparisons),
            strict=True,
        )
    )
    return _comparison(difference, error, difference - below, difference + above)


def difference_interval(differences_XP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the 95% interval of the mean of differences in -1..1 over problems, the last axis.

    A single problem says nothing about others: -1 to 1.
    """
    num_problems = differences_XP.shape[-1]
    difference_X = differences_XP.mean(-1)
    if num_problems < 2:
        return np.full_like(difference_X, -1), np.full_like(difference_X, 1)
    parts_2XP = np.stack([differences_XP.clip(0), -differences_XP.clip(None, 0)])  # gains, losses
    means_2X, errors_2X = parts_2XP.mean(-1), parts_2XP.std(-1, ddof=1) / math.sqrt(num_problems)
    # the two parts share the prior of one mean
    low_2X, high_2X = mean_interval(means_2X, errors_2X, num_problems, PRIOR_SQUARES / 2)
    # no problem is both a gain and a loss, so the parts' covariance follows from their means
    covariance_X = -means_2X.prod(0) / (num_problems - 1)
    scale_X = errors_2X.prod(0)
    correlation_X = np.divide(covariance_X, scale_X, out=np.zeros_like(scale_X), where=scale_X > 1e-15).clip(-1, 1)
    below_2X, above_2X = means_2X - low_2X, high_2X - means_2X

    def distance(gain_X: np.ndarray, loss_X: np.ndarray) -> np.ndarray:
        return np.sqrt(gain_X**2 + loss_X**2 - 2 * correlation_X * gain_X * loss_X)

    low_X = difference_X - distance(below_2X[0], above_2X[1])
    return low_X.clip(-1, 1), (difference_X + distance(above_2X[0], below_2X[1])).clip(-1, 1)


def _comparison(difference: float, error: float, low: float, high: float) -> Comparison:
    return Comparison(difference, error, max(low, -1.0), min(high, 1.0), min(1.0, _DETECTABLE * (high - low) / 2))
