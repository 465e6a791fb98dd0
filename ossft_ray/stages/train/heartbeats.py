"""Which worker of a training run fell silent? Every worker says where it stands; the driver looks when nothing moves.

Workers wait for each other in collectives, so one that hangs stops all. It is either not heard any more (a thread of
each worker says now and then that its process lives), or the others have gone one phase further than it has.
"""

import threading
import time
from collections.abc import Callable

import ray

from ossft_ray.common.durations import parse_duration
from ossft_ray.common.errors import JobError

Place = tuple[int, int, int]  # optimiser step, forward pass within it, phase within that; larger is further
PHASES = ("forward", "backward", "step", "report")
_PULSES = 8  # within the time after which silence is a hang


@ray.remote(num_cpus=0)
class Heartbeats:
    """The place that each worker last told, when it last lived, and how long nothing has changed."""

    def __init__(self) -> None:
        self._places: dict[int, Place] = {}
        self._lived_at: dict[int, float] = {}
        self._changed_at = time.monotonic()

    def beat(self, rank: int, step: int, number: int, phase: int) -> None:
        self._places[rank] = (step, number, phase)
        self._changed_at = time.monotonic()
        self.live(rank)

    def live(self, rank: int) -> None:
        self._lived_at[rank] = time.monotonic()

    def told(self) -> tuple[float, dict[int, Place], dict[int, float]]:
        """Seconds since anybody moved, every worker's place, and the seconds since it lived."""
        now = time.monotonic()
        return now - self._changed_at, dict(self._places), {rank: now - at for rank, at in self._lived_at.items()}


def beater(heartbeats: object, rank: int, hang_after: str) -> Callable[[int, int, str], None]:
    """What an engine calls as it goes on: `on_phase(step, number, phase)`; it waits for nothing."""

    def beat(step: int, number: int, phase: str) -> None:
        heartbeats.beat.remote(rank, step, number, PHASES.index(phase))  # type: ignore[attr-defined]

    def live() -> None:
        while True:
            heartbeats.live.remote(rank)  # type: ignore[attr-defined]
            time.sleep(parse_duration(hang_after) / _PULSES)

    threading.Thread(target=live, daemon=True).start()
    return beat


def refuse_silence(heartbeats: object, hang_after: str) -> None:
    """Look once.

    Raises:
        JobError: no worker has moved for so long; names those that are silent, or behind the others.
    """
    seconds, places, lived = ray.get(heartbeats.told.remote())  # type: ignore[attr-defined]
    limit = parse_duration(hang_after)
    if places and seconds > limit:
        silent = [rank for rank in sorted(places) if lived[rank] > limit / 2]
        raise JobError(describe_hang(seconds, places, silent))


def describe_hang(seconds: float, places: dict[int, Place], silent: list[int]) -> str:
    """One line: who is silent or behind, where that was, and what to do."""
    line = f"train: nothing has moved for {seconds:.0f} s (train.hang_after): "
    least = min(places.values())
    if not silent and least < max(places.values()):
        silent = [rank for rank, place in sorted(places.items()) if place == least]
        what = "behind the others"
    else:
        what = "silent"
    if not silent or len(silent) == len(places):
        return f"{line}all workers, in {_named(least)}; look at the network between them, and at their logs"
    names = f"worker{'s' if len(silent) > 1 else ''} {', '.join(map(str, silent))}"
    return (
        f"{line}{names} {what}, last heard of in {_named(places[silent[0]])}; look at that machine and its log; "
        "the same command goes on from the newest checkpoint"
    )


def _named(place: Place) -> str:
    step, number, phase = place
    return f"step {step}, {PHASES[phase]}" + (f" of micro-batch {number + 1}" if phase < PHASES.index("step") else "")
