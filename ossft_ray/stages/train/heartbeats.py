"""Heartbeats of the training workers, by which the driver finds a worker that hangs.

Workers wait for each other in collectives, so one that hangs stops them all. Each reports every phase that it begins,
and from a second thread that its process is alive. When no worker has moved for too long, the driver names those that
are silent, or if none is, those that are behind the others.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

import ray

from ossft_ray.common.durations import parse_duration
from ossft_ray.common.errors import JobError

Position = tuple[int, int, int]  # optimiser step, forward pass within it, phase within that; larger is further
PHASES = ("forward", "backward", "step", "report")
_PULSES = 8  # within `hang_after`


@ray.remote(num_cpus=0)
class Heartbeats:
    """The last position of each worker, when it was last alive, and when any worker last moved.

    It also carries the driver's request to stop to the workers.
    """

    def __init__(self) -> None:
        self._positions: dict[int, Position] = {}
        self._alive_at: dict[int, float] = {}
        self._moved_at = time.monotonic()
        self._is_stop_requested = False

    def request_stop(self) -> None:
        self._is_stop_requested = True

    def is_stop_requested(self) -> bool:
        return self._is_stop_requested

    def report_position(self, rank: int, position: Position) -> None:
        self._positions[rank] = position
        self._moved_at = time.monotonic()
        self.report_alive(rank)

    def report_alive(self, rank: int) -> None:
        self._alive_at[rank] = time.monotonic()

    def snapshot(self) -> tuple[float, dict[int, Position], dict[int, float]]:
        """Seconds since any worker moved, each worker's position, and seconds since its last heartbeat."""
        now = time.monotonic()
        return now - self._moved_at, dict(self._positions), {rank: now - at for rank, at in self._alive_at.items()}


def make_heartbeat(heartbeats: Any, rank: int, hang_after: str) -> Callable[[int, int, str], None]:
    """The `on_phase(step, number, phase)` of a worker's trainer; it does not wait for the driver."""

    def on_phase(step: int, number: int, phase: str) -> None:
        heartbeats.report_position.remote(rank, (step, number, PHASES.index(phase)))

    def stay_alive() -> None:
        while True:
            heartbeats.report_alive.remote(rank)
            time.sleep(parse_duration(hang_after) / _PULSES)

    threading.Thread(target=stay_alive, daemon=True).start()
    return on_phase


def raise_if_hung(heartbeats: Any, hang_after: str) -> None:
    """Raise JobError if no worker has moved for `hang_after`, with the workers that are silent or behind the others."""
    seconds, positions, silences = ray.get(heartbeats.snapshot.remote())
    limit = parse_duration(hang_after)
    if positions and seconds > limit:
        silent = [rank for rank in sorted(positions) if silences[rank] > limit / 2]
        raise JobError(describe_hang(seconds, positions, silent))


def describe_hang(seconds: float, positions: dict[int, Position], silent: list[int]) -> str:
    """One line: which workers are silent, else which are behind, where they were, and what to do."""
    last = min(positions.values())
    behind = [rank for rank, position in sorted(positions.items()) if position == last < max(positions.values())]
    suspects = silent or behind
    if len(suspects) in (0, len(positions)):
        finding = f"all workers are in {_describe(last)}; look at the network between them, and at their logs"
    else:
        where = _describe(positions[suspects[0]])
        finding = (
            f"{'silent' if silent else 'behind the others'}: worker {' and '.join(map(str, suspects))}, last seen "
        )
        finding += f"in {where}; look at that machine and its log"
    return (
        f"train: no worker has moved for {seconds:.0f} s (train.hang_after); {finding}; run the same command again to "
        "resume from the newest checkpoint"
    )


def _describe(position: Position) -> str:
    step, number, phase = position
    return f"step {step}, {PHASES[phase]}" + (f" of micro-batch {number + 1}" if phase < PHASES.index("step") else "")
