"""How long does an engine take for a token, and how much less of it where more requests share its batch?

A decoding step of B requests takes a + b B seconds: `a` for what it does once (reading the weights), `b` for each
request. So a token costs b + a / B, and a run with fuller batches than the probe's pays less for each.

Both are fitted to the probe's own requests, of which only beginning, end and number of tokens are known. A request
took, for each of its tokens, a + b times the mean of B over its steps. Between two events B is known, and there were as
many steps as the time there allows at a + b B seconds each; so the means follow from a and b, and these from the means,
by least squares: in turn, until they stay as they are.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

_MAX_ROUNDS = 200


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
    """What steps of these engines, which are alike, cost; neither part is below 0, and requests count by their tokens.

    None where there is no request with tokens.
    """
    timelines = [_Timeline(spans) for spans in engines]
    requests = [
        (timeline, span) for timeline, spans in zip(timelines, engines, strict=True) for span in spans if _tells(span)
    ]
    if not requests:
        return None
    weights = [span.num_tokens for _, span in requests]
    per_token = [(span.ended - span.began) / span.num_tokens for _, span in requests]
    cost = StepCost(1.0, 0.0)  # at first steps are as dense everywhere
    for _ in range(_MAX_ROUNDS):
        for timeline in timelines:
            timeline.count_steps(cost)
        before, cost = cost, _line([t.mean_batch(span) for t, span in requests], per_token, weights)
        if abs(cost.fixed - before.fixed) + abs(cost.each - before.each) < 1e-9 * (cost.fixed + cost.each):
            break
    return cost


def _tells(span: Span) -> bool:
    return span.num_tokens > 0 and span.ended > span.began


class _Timeline:
    """The requests in flight at one engine over time, and the steps that it then made."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self._times = sorted({time for span in spans for time in (span.began, span.ended)})
        changes = dict.fromkeys(self._times, 0)
        for span in spans:
            changes[span.began] += 1
            changes[span.ended] -= 1
        self._in_flight = list(accumulate(changes.values()))[:-1]  # from each time to the next

    def count_steps(self, cost: StepCost) -> None:
        """Steps, and requests in them, from the beginning to each time."""
        steps = [
            (end - start) / (cost.fixed + cost.each * number) if number else 0.0
            for (start, end), number in zip(pairwise(self._times), self._in_flight, strict=True)
        ]
        self._steps = list(accumulate(steps, initial=0.0))
        in_steps = [count * number for count, number in zip(steps, self._in_flight, strict=True)]
        self._in_steps = list(accumulate(in_steps, initial=0.0))

    def mean_batch(self, span: Span) -> float:
        """The mean number of requests over the steps of this one."""
        start, end = (bisect_left(self._times, time) for time in (span.began, span.ended))
        return (self._in_steps[end] - self._in_steps[start]) / (self._steps[end] - self._steps[start])


def _line(x: Sequence[float], y: Sequence[float], weights: Sequence[float]) -> StepCost:
    """The weighted least-squares line through the points with no negative coefficient."""
    points, weight = list(zip(x, y, weights, strict=True)), sum(weights)
    mean_x, mean_y = sum(a * w for a, _, w in points) / weight, sum(b * w for _, b, w in points) / weight
    spread = sum(w * (a - mean_x) ** 2 for a, _, w in points)
    slope = sum(w * (a - mean_x) * (b - mean_y) for a, b, w in points) / spread if spread > 1e-12 * weight else 0.0
    if slope <= 0:
        return StepCost(mean_y, 0.0)
    if mean_y <= slope * mean_x:  # the line through the origin that fits best
        return StepCost(0.0, sum(w * a * b for a, b, w in points) / sum(w * a * a for a, _, w in points))
    return StepCost(mean_y - slope * mean_x, slope)
