"""The share of the engines' time that was used, and where the rest was lost, from the responses of each policy."""

from collections.abc import Sequence
from dataclasses import dataclass

Draw = tuple[float, float]  # begin and end, seconds on one clock


@dataclass(frozen=True)
class Usage:
    """Shares of slots x policies x time, from the first response of all policies to the end of the last."""

    seconds: float
    used: float  # 1: every slot was busy all the time
    used_before_tail: float  # the share until the first policy had nothing left to do
    tail_seconds: float  # from then to the end
    lost_in_tail: float
    draws: int
    busy_seconds: float


def usage(by_policy: Sequence[Sequence[Draw]], slots: int) -> Usage:
    """A policy without responses was idle from the start."""
    draws = [draw for of_policy in by_policy for draw in of_policy]
    begin, end = min(start for start, _ in draws), max(stop for _, stop in draws)
    first_idle = min(max((stop for _, stop in of_policy), default=begin) for of_policy in by_policy)
    busy = sum(stop - start for start, stop in draws)
    busy_before = sum(max(0.0, min(stop, first_idle) - start) for start, stop in draws)
    num_slots = slots * len(by_policy)
    whole, before = num_slots * (end - begin), num_slots * (first_idle - begin)
    return Usage(
        seconds=end - begin,
        used=busy / whole,
        used_before_tail=busy_before / before if before else 0.0,
        tail_seconds=end - first_idle,
        lost_in_tail=(whole - before - (busy - busy_before)) / whole,
        draws=len(draws),
        busy_seconds=busy,
    )
