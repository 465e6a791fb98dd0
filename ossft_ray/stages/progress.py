"""Counts from many workers while they work, and a driver that watches them."""

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import ray

from ossft_ray.stages.processes import Processes

T = TypeVar("T")
OnProgress = Callable[[dict[str, Any]], None]
ALREADY_COMPLETE = {"already_complete": True}  # what a stage reports that finds its output complete


@ray.remote(num_cpus=0)
class Tally:
    """Running totals that workers add to and the driver reads, and the processes that the workers started."""

    def __init__(self) -> None:
        self._totals: Counter[str] = Counter()
        self._processes: list[Processes] = []

    def register(self, processes: Processes) -> None:
        self._processes.append(processes)

    def processes(self) -> list[Processes]:
        return self._processes

    def add(self, counts: dict[str, int]) -> None:
        self._totals.update(counts)

    def totals(self) -> dict[str, int]:
        return dict(self._totals)


def watch(work: Callable[[], T], poll: Callable[[], None], every_seconds: float = 0.5) -> T:
    """Run `work` in a thread and call `poll` meanwhile and once at the end; returns or raises what `work` does.

    The calling thread stays free for Ctrl-C, which ends the waiting at once.
    """
    outcome: dict[str, Any] = {}

    def run() -> None:
        try:
            outcome["value"] = work()
        except BaseException as error:  # handed to the caller below
            outcome["error"] = error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(every_seconds)
        poll()
    if "error" in outcome:
        raise outcome["error"]
    value: T = outcome["value"]
    return value
