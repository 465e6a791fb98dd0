"""The uncertainty of a mean over seeds and problems, both of which vary.

Letters in names: S seeds, L levels, P problems of a level. A value is the mean accuracy over a problem's samples, or a
difference of two such means.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from ossft_ray.method.comparison import difference_interval


@dataclass(frozen=True)
class Estimate:
    """A mean with half the width of its 95% interval, in the unit of the values; `half_width` is None for one value.

    `p_value` is that of the two-sided test of a mean of 0, where the interval is Student's; else None.
    """

    mean: float
    half_width: float | None
    p_value: float | None = None

    @property
    def percent(self) -> str:
        spread = "" if self.half_width is None else f" ± {100 * self.half_width:.1f}"
        return f"{100 * self.mean:.1f}{spread}"

    @property
    def signed_percent(self) -> str:
        return ("+" if self.mean >= 0 else "") + self.percent

    @property
    def is_clear(self) -> bool:
        return self.half_width is not None and abs(self.mean) > self.half_width


def estimate(values_SLP: np.ndarray) -> Estimate:
    """The mean of `values_SLP` and its 95% interval, seeds and problems crossed, levels fixed.

    The variance is that of seeds' means over S plus that of problems' means over P, less what both contain (the
    residual over S P); it is not taken to be smaller than the larger of the two. The interval is Student's, with
    Satterthwaite's degrees of freedom. With one seed only the problems count.

    Two seeds hardly show how much seeds vary: Satterthwaite's interval then covers less than 0.90
    (`benchmarks/coverage.py`). With two seeds, the half width is therefore the root of the sum of the two margins'
    squares, where that of the seeds has Student's factor for two values, 12.7. Without any variance, the interval is
    that of `difference_interval`.
    """
    num_seeds, num_levels, num_problems = values_SLP.shape
    mean = float(values_SLP.mean())
    if num_problems < 2:
        return Estimate(mean, None)
    problems_LP = values_SLP.mean(0)
    of_problems = float(problems_LP.var(axis=1, ddof=1).sum()) / num_problems / num_levels**2
    problem_freedom = num_levels * (num_problems - 1)
    if num_seeds == 1:
        return _student(mean, of_problems, problem_freedom)
    of_seeds = float(values_SLP.mean((1, 2)).var(ddof=1)) / num_seeds
    level_means_SL1 = values_SLP.mean(2, keepdims=True)
    residual_SLP = values_SLP - problems_LP[None] - level_means_SL1 + level_means_SL1.mean(0, keepdims=True)
    freedom = (num_seeds - 1) * (num_problems - 1)
    residual = float((residual_SLP**2).sum((0, 2)).sum()) / freedom / num_seeds / num_problems / num_levels**2
    if not of_problems and not of_seeds:
        low_L, high_L = difference_interval(problems_LP)
        return Estimate(mean, float(np.sqrt((((high_L - low_L) / 2) ** 2).sum())) / num_levels)
    if num_seeds == 2:
        margins = (student_quantile(problem_freedom) ** 2 * of_problems, student_quantile(1) ** 2 * of_seeds)
        return Estimate(mean, math.sqrt(sum(margins)))
    variance = max(of_problems + of_seeds - residual, of_problems, of_seeds)
    freedom_of_sum = (of_problems + of_seeds) ** 2 / (of_seeds**2 / (num_seeds - 1) + of_problems**2 / problem_freedom)
    return _student(mean, variance, freedom_of_sum)


def holm(p_values: dict[str, float]) -> dict[str, float]:
    """p-values adjusted for their number by Holm's step-down method, which controls the family-wise error rate.

    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'b': 0.06, 'c': 0.06}
    """
    ordered = sorted(p_values, key=lambda name: p_values[name])
    factors = range(len(ordered), 0, -1)
    steps = itertools.accumulate(
        (min(1.0, factor * p_values[name]) for factor, name in zip(factors, ordered, strict=True)), max
    )
    adjusted = dict(zip(ordered, steps, strict=True))
    return {name: adjusted[name] for name in p_values}


def _student(mean: float, variance: float, freedom: float) -> Estimate:
    error = math.sqrt(variance)
    p_value = 2 * float(stdtr(freedom, -abs(mean) / error)) if error else None
    return Estimate(mean, student_quantile(freedom) * error, p_value)


def student_quantile(freedom: float) -> float:
    """The 97.5% quantile of Student's t.

    >>> round(student_quantile(2), 2), round(student_quantile(1000), 2)
    (4.3, 1.96)
    """
    return float(stdtrit(freedom, 0.975))
