r"""Is one model better than another, by how much, how surely, and in what? Values are in 0..1, `b` after `a`.

**Difference.** Both models answer the same problems, so differences are taken problem by problem, and their mean's
standard error is that of independent problems. The 95% interval is Student's t with one degree of freedom less than
there are problems, cut to -1..1, which no difference of accuracies leaves.

**Smallest detectable difference**: what a two-sided test at 5% finds in 80% of all repetitions, (t_.975 + t_.80) times
the standard error; never less than one sample in all.

**Gain.** An answer that is right was given, and one that was given came before the limit of tokens. So

    avg@k = P(stopped in time) · P(in form | stopped in time) · P(solved | in form)

where a sample *stopped in time* if it ended by itself, or an answer could be read from it although the limit cut it
off: what a model says after its answer costs it nothing. It is *in form* if an answer was read from it, and *solved* if
that was right. A truncated but correct sample counts for all three, a truncated one with a wrong answer for the first
two. Each factor's part in the difference is its Shapley value: the mean, over all orders in which the factors can be
changed from `a`'s to `b`'s, of what changing it does to their product. The three parts add up to the difference.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from scipy.special import stdtrit

from ossft_ray.method.metrics import Samples, paired_difference, score

LEVEL, POWER = 0.95, 0.80


@dataclass(frozen=True)
class Gain:
    """The parts of a difference; they add up to it."""

    stopping: float
    form: float
    solving: float


@dataclass(frozen=True)
class Comparison:
    """What one model has over another on the same problems."""

    difference: float
    stderr: float
    low: float  # of the 95% confidence interval
    high: float
    smallest_detectable: float
    gain: Gain
    degrees: int  # of freedom; 0 where a single problem tells nothing of the error
    resolution: float  # one sample's share in the difference


def compare(before: Samples, after: Samples) -> Comparison:
    """Compare two models on one benchmark, from graded samples of the same problems in the same order.

    Raises:
        ValueError: nothing to compare, or not the same number of problems.
    """
    old, new = score(before), score(after)
    difference, error = paired_difference(
        *([fmean(s.correct for s in row) for row in samples] for samples in (before, after))
    )
    a, b = (
        factors(one.finished + one.answered - one.in_form, one.answered, one.avg) for one in (old, new)
    )  # finished or answered
    resolution = 1 / (len(before) * min(old.samples, new.samples))
    return _judged(difference, error, len(before) - 1, resolution, split_gain(a, b, difference))


def average(comparisons: Sequence[Comparison]) -> Comparison:
    """The mean over independent benchmarks, each with the same weight.

    Its degrees of freedom are Welch's and Satterthwaite's, rounded down.
    """
    num = len(comparisons)
    variances = [(c.stderr / num) ** 2 for c in comparisons]
    spread = sum(v**2 / c.degrees for v, c in zip(variances, comparisons, strict=True) if c.degrees)
    degrees = int(sum(variances) ** 2 / spread + 1e-9) if spread else sum(c.degrees for c in comparisons)
    stopping, form = (fmean(getattr(c.gain, part) for c in comparisons) for part in ("stopping", "form"))
    difference = fmean(c.difference for c in comparisons)
    return _judged(
        difference,
        math.sqrt(sum(variances)),
        0 if any(c.degrees == 0 for c in comparisons) else degrees,
        min(c.resolution for c in comparisons) / num,
        Gain(stopping, form, difference - stopping - form),
    )


def factors(stopped: float, in_form: float, solved: float) -> tuple[float | None, float | None, float | None]:
    """Three nested shares as factors whose product is the last; None where there is nothing to take a share of."""
    return stopped, in_form / stopped if stopped else None, solved / in_form if in_form else None


def split_gain(a: Sequence[float | None], b: Sequence[float | None], difference: float) -> Gain:
    """Shapley values of the three factors. One that a model does not have is taken from the other: it gains nothing."""
    pairs = [(y if x is None else x, x if y is None else y) for x, y in zip(a, b, strict=True)]
    (s, t), (f, g), (v, w) = [(x or 0.0, y or 0.0) for x, y in pairs]
    stopping = (t - s) * ((f * v + g * w) / 3 + (f * w + g * v) / 6)
    form = (g - f) * ((s * v + t * w) / 3 + (s * w + t * v) / 6)
    return Gain(stopping, form, difference - stopping - form)  # what floating point rounds off is in the last


def _judged(difference: float, error: float, degrees: int, resolution: float, gain: Gain) -> Comparison:
    """With its interval; where there are no degrees of freedom, anything may be so."""
    if not degrees:
        return Comparison(difference, error, -1.0, 1.0, 1.0, gain, degrees, resolution)
    reach = float(stdtrit(degrees, (1 + LEVEL) / 2)) * error
    detectable = reach + float(stdtrit(degrees, POWER)) * error
    return Comparison(
        difference,
        error,
        max(-1.0, difference - reach),
        min(1.0, difference + reach),
        min(1.0, max(detectable, resolution)),
        gain,
        degrees,
        resolution,
    )
