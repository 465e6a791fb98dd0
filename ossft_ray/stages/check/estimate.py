"""What does a sample say of the whole? Totals and shares with 95% intervals, for a population of known size.

The sample is drawn without replacement, and a problem's draws are the same in the sample as in the whole. So what is
unknown is only what was not sampled: intervals shrink as the sample grows, to nothing where it is everything.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Generic, TypeVar

from scipy.special import stdtrit

from ossft_ray.method.metrics import standard_error

T = TypeVar("T")
_LEVEL = 0.95
_Z = 1.959963984540054  # the normal distribution's quantile of (1 + _LEVEL) / 2


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its interval."""

    value: float
    low: float
    high: float

    @classmethod
    def exactly(cls, value: float) -> "Interval":
        return cls(value, value, value)

    def __add__(self, other: "Interval") -> "Interval":
        """Of a sum, ends to ends: never too narrow, whatever the two have to do with each other."""
        return Interval(self.value + other.value, self.low + other.low, self.high + other.high)

    def times(self, factor: "float | Interval") -> "Interval":
        """Of a product of what is not negative, ends by ends."""
        other = factor if isinstance(factor, Interval) else Interval.exactly(factor)
        return Interval(self.value * other.value, self.low * other.low, self.high * other.high)


class Reservoir(Generic[T]):
    """A uniformly random sample of a stream of any length, in the stream's order (Vitter 1985, Algorithm R)."""

    def __init__(self, size: int, rng: random.Random) -> None:
        self._size, self._rng = size, rng
        self._num_seen = 0
        self._kept: list[tuple[int, T]] = []

    def offer(self, item: T) -> None:
        """Let the next item of the stream take part."""
        if len(self._kept) < self._size:
            self._kept.append((self._num_seen, item))
        elif (place := self._rng.randrange(self._num_seen + 1)) < self._size:
            self._kept[place] = (self._num_seen, item)
        self._num_seen += 1

    def sample(self) -> list[T]:
        return [item for _, item in sorted(self._kept, key=lambda kept: kept[0])]


def total(values: Sequence[float], population: int) -> Interval:
    """The sum over a population of which `values`, none of them negative, are a sample.

    Student's t on the sample's mean with the finite population correction (Cochran 1977, Section 2.6); not less than
    what the sample itself comes to. A single value of several tells nothing of the error: the high end is infinite.

    Raises:
        ValueError: there is no value, or there are more than the population has.
    """
    num = len(values)
    if not 1 <= num <= population:
        raise ValueError(f"a sample of {num} out of {population}")
    value, seen = population * fmean(values), sum(values)
    if num == population:
        return Interval.exactly(value)
    if num == 1:
        return Interval(value, seen, math.inf)
    reach = population * standard_error(values) * math.sqrt(1 - num / population)
    reach *= float(stdtrit(num - 1, (1 + _LEVEL) / 2))
    return Interval(value, max(seen, value - reach), value + reach)


def share(count: int, num: int, population: int) -> Interval:
    """The share of a population with a property that `count` of a sample of `num` have.

    Wilson's interval (1927), with as many observations as would tell as much of an infinite population.

    Raises:
        ValueError: there is no observation, or there are more than the population has.
    """
    if not 1 <= num <= population:
        raise ValueError(f"a sample of {num} out of {population}")
    observed = count / num
    if num == population:
        return Interval.exactly(observed)
    effective = num * (population - 1) / (population - num)
    shrink = 1 + _Z**2 / effective
    centre = (observed + _Z**2 / (2 * effective)) / shrink
    reach = _Z / shrink * math.sqrt(observed * (1 - observed) / effective + _Z**2 / (4 * effective**2))
    # at the ends the interval reaches 0 or 1 exactly, which rounding must not miss
    return Interval(observed, min(observed, max(0.0, centre - reach)), max(observed, min(1.0, centre + reach)))
