"""Counts from many workers while they work, and a driver that watches them."""

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import ray
from ray.actor import ActorHandle

from ossft_ray.distributed.processes import Processes

T = TypeVar("T")
OnProgress = Callable[[dict[str, Any]], None]
ALREADY_COMPLETE = {"already_complete": True}  # what a stage reports that finds its output complete
REPORT_SECONDS = 0.5
_REPORTS_PER_SECOND = 200  # of all workers together, so that a thousand do not take all of the tally's time


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Tally:
    """What workers have told of themselves and of the parts they work on, the latest of each.

    Workers tell their totals again and again, so a tally that was killed knows those of the living again soon; and a
    part that a worker takes up after another's death is counted once. The sums are kept up with each report: it costs
    the same however many parts there were.
    """

    def __init__(self) -> None:
        self._lives: dict[str, tuple[dict[str, int], list[Processes]]] = {}
        self._parts: dict[str, dict[str, int]] = {}
        self._totals: Counter[str] = Counter()
        self._enrolled: set[ActorHandle] = set()
        self._at_work: set[ActorHandle] = set()
        self._failure: Exception | None = None

    def enrol(self, worker: ActorHandle) -> None:
        """Know of a worker before it has told anything. It lives at least as long as this tally does."""
        self._enrolled.add(worker)

    def workers(self) -> list[ActorHandle]:
        return list(self._enrolled | self._at_work)

    def put(
        self,
        worker: ActorHandle,
        life: str,
        counts: dict[str, int],
        parts: dict[str, dict[str, int]],
        processes: list[Processes],
    ) -> float:
        """Returns the seconds after which this life may tell more: the more workers, the less often."""
        counts_before, _ = self._lives.get(life, ({}, []))
        self._replace(counts_before, counts)
        for part, of_part in parts.items():
            self._replace(self._parts.get(part, {}), of_part)
        self._lives[life] = (counts, processes)
        self._parts |= parts
        self._at_work.add(worker)
        return max(REPORT_SECONDS, len(self._at_work) / _REPORTS_PER_SECOND)

    def fail(self, failure: Exception) -> None:
        """Keep the first failure that a worker tells of: what follows is often no more than its consequence."""
        self._failure = self._failure or failure

    def failure(self) -> Exception | None:
        return self._failure

    def processes(self) -> list[Processes]:
        return [group for _, processes in self._lives.values() for group in processes]

    def totals(self) -> dict[str, int]:
        """Sums over all workers and parts, and `policies`: how many workers there were."""
        return {**self._totals, "policies": len(self._at_work)}

    def _replace(self, before: dict[str, int], now: dict[str, int]) -> None:
        self._totals.subtract(before)
        self._totals.update(now)


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
