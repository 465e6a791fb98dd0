"""Paired comparison of two models on the same problems. Values are in 0..1, `after` less `before`.

**Difference.** Differences are taken problem by problem. The standard error of their mean is that of independent
problems. The 95% interval is Student's t with one degree of freedom less than there are problems, cut to -1..1, the
range of differences between accuracies.

**Smallest detectable difference**: what a two-sided test at 5% finds in 80% of all repetitions, (t_.975 + t_.80) times
the standard error; never less than one sample in all.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from scipy.special import stdtrit

from ossft_ray.method.metrics import Samples, paired_difference

LEVEL, POWER = 0.95, 0.80


@dataclass(frozen=True)
class Comparison:
    """The difference of one model from another on the same problems."""

    difference: float
    stderr: float
    low: float  # of the 95% confidence interval
    high: float
    smallest_detectable: float
    degrees_of_freedom: int  # 0 for a single problem, which says nothing about the error
    resolution: float  # one sample's share in the difference


def compare(before: Samples, after: Samples) -> Comparison:
    """Compare two models on one benchmark, from graded samples of the same problems in the same order.

    Raises:
        ValueError: there is no sample, or the numbers of problems differ.
    """
    means = ([fmean(sample.correct for sample in row) for row in samples] for samples in (before, after))
    difference, error = paired_difference(*means)
    num_samples = min(len(row) for row in (*before, *after))
    return _with_interval(difference, error, len(before) - 1, 1 / (len(before) * num_samples))


def average(comparisons: Sequence[Comparison]) -> Comparison:
    """The mean over independent benchmarks, each with the same weight.

    The degrees of freedom are those of Welch and Satterthwaite, rounded down.
    """
    num, degrees = len(comparisons), [each.degrees_of_freedom for each in comparisons]
    variances = [(each.stderr / num) ** 2 for each in comparisons]
    spread = sum(variance**2 / each for variance, each in zip(variances, degrees, strict=True) if each)
    effective = int(sum(variances) ** 2 / spread + 1e-9) if spread else sum(degrees)
    return _with_interval(
        fmean(each.difference for each in comparisons),
        math.sqrt(sum(variances)),
        effective if all(degrees) else 0,
        min(each.resolution for each in comparisons) / num,
    )


def _with_interval(difference: float, error: float, degrees: int, resolution: float) -> Comparison:
    """Without degrees of freedom, the interval holds every possible difference."""
    low, high, detectable = -1.0, 1.0, 1.0
    if degrees:
        margin = float(stdtrit(degrees, (1 + LEVEL) / 2)) * error
        low, high = max(low, difference - margin), min(high, difference + margin)
        detectable = min(1.0, max(margin + float(stdtrit(degrees, POWER)) * error, resolution))
    return Comparison(difference, error, low, high, detectable, degrees, resolution)
