"""How long does an engine take for a token, and how much less of it where more requests share its batch?

A decoding step of B requests takes a + b B seconds: `a` for what it does once (reading the weights), `b` for each
request. So a token costs b + a / B, and a run with fuller batches than the probe's pays less for each. Both are fitted
to the probe's own requests: each took, for each of its tokens, a + b times the requests that were in flight with it.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple


class Span(NamedTuple):
    """One request to an engine: when it began and ended, in seconds of one clock, and the tokens it came back with."""

    began: float
    ended: float
    num_tokens: int


@dataclass(frozen=True)
class StepCost:
    """Seconds of a decoding step: `fixed`, and `each` for every request in it."""

    fixed: float
    each: float

    def per_token(self, batch: float) -> float:
        """Seconds of the engine for a token where `batch` requests are in flight."""
        return self.each + self.fixed / batch


def fit_step_cost(engines: Sequence[Sequence[Span]]) -> StepCost | None:
    """Least squares over the requests of one or more engines, each with the weight of its tokens; neither part below 0.

    None where there is no request with tokens.
    """
    points = [point for spans in engines for point in _points(spans)]
    weight = sum(w for w, _, _ in points)
    if not weight:
        return None
    mean_x, mean_y = (sum(point[0] * point[place] for point in points) / weight for place in (1, 2))
    spread = sum(w * (x - mean_x) ** 2 for w, x, _ in points)
    slope = sum(w * (x - mean_x) * (y - mean_y) for w, x, y in points) / spread if spread > 1e-12 else 0.0
    if slope <= 0:
        return StepCost(mean_y, 0.0)
    if mean_y < slope * mean_x:  # the line through the origin that fits best
        return StepCost(0.0, sum(w * x * y for w, x, y in points) / sum(w * x * x for w, x, _ in points))
    return StepCost(mean_y - slope * mean_x, slope)


def _points(spans: Sequence[Span]) -> list[tuple[int, float, float]]:
    """Of each request its tokens, the mean number of requests in flight during it, and its seconds a token."""
    times = sorted({time for span in spans for time in (span.began, span.ended)})
    changes = dict.fromkeys(times, 0)
    for span in spans:
        changes[span.began] += 1
        changes[span.ended] -= 1
    in_flight, request_seconds = 0, [0.0]  # the integral of requests in flight, up to each time
    for start, end in pairwise(times):
        in_flight += changes[start]
        request_seconds.append(request_seconds[-1] + in_flight * (end - start))

    def until(time: float) -> float:
        return request_seconds[bisect_right(times, time) - 1]

    return [
        (
            span.num_tokens,
            (until(span.ended) - until(span.began)) / (span.ended - span.began),
            (span.ended - span.began) / span.num_tokens,
        )
        for span in spans
        if span.num_tokens and span.ended > span.began
    ]
