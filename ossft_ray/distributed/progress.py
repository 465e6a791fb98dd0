"""Progress of many workers: the counts they report, and a driver that polls them while it waits."""

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

import ray
from ray.actor import ActorHandle

from ossft_ray.common.errors import raise_if_interrupted
from ossft_ray.distributed.nodes import Processes

T = TypeVar("T")
OnProgress = Callable[[dict[str, Any]], None]
OnStage = Callable[[str], OnProgress]
"""(name of a stage that begins) -> the callback for its progress."""
ALREADY_COMPLETE = {"already_complete": True}  # reported by a stage that finds its output complete
REPORT_SECONDS = 0.5
_END_SECONDS = 30.0  # for abandoned work to end
_REPORTS_PER_SECOND = 200  # of all workers together, so that a thousand of them do not overload the tally


class FirstFailure:
    """Keeps the first failure only: those that follow are often its consequence."""

    def __init__(self) -> None:
        self._failure: Exception | None = None

    def record_failure(self, failure: Exception) -> None:
        self._failure = self._failure or failure

    def failure(self) -> Exception | None:
        return self._failure


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class ProgressTally(FirstFailure):
    """The latest counts of each worker and of each part.

    Workers report totals, not increments. A tally that was killed and restarted is therefore complete again as soon as
    every live worker has reported, and a part that moves to another worker counts once. The sums are updated with each
    report, so a report costs the same however many parts there are.
    """

    def __init__(self) -> None:
        super().__init__()
        self._counts: dict[str, dict[str, int]] = {}  # by worker and by part
        self._totals: Counter[str] = Counter()
        self._processes: dict[str, list[Processes]] = {}
        self._registered: set[ActorHandle] = set()
        self._reporting: set[ActorHandle] = set()

    def register(self, actor: ActorHandle) -> None:
        """Hold a handle of an actor that has not reported yet. The actor lives at least as long as this tally."""
        self._registered.add(actor)

    def actors(self) -> list[ActorHandle]:
        return list(self._registered | self._reporting)

    def report(
        self, actor: ActorHandle, worker_id: str, counts: dict[str, dict[str, int]], processes: list[Processes]
    ) -> float:
        """Replace the counts of a worker (`worker_id`) and of the parts that it works on.

        `worker_id` changes when Ray restarts the actor. Returns the seconds until the worker may report again.
        """
        for counted, now in counts.items():
            self._totals.subtract(self._counts.get(counted, {}))
            self._totals.update(now)
        self._counts |= counts
        self._processes[worker_id] = processes
        self._reporting.add(actor)
        return max(REPORT_SECONDS, len(self._reporting) / _REPORTS_PER_SECOND)

    def processes(self) -> list[Processes]:
        return [group for groups in self._processes.values() for group in groups]

    def totals(self) -> dict[str, int]:
        """Sums over all workers and parts, and `policies`, the number of actors that have reported."""
        return {**self._totals, "policies": len(self._reporting)}


def announce(on_progress: OnProgress, **words: str) -> bool:
    """Tell a callback what begins (`starting`) or has happened (`note`); returns whether it wanted to hear it.

    A callback with a true attribute `hears_announcements`, such as the terminal's, does. Others get figures only.
    """
    hears = bool(getattr(on_progress, "hears_announcements", False))
    if hears:
        on_progress(words)
    return hears


def ignore(totals: dict[str, Any]) -> None:
    """An `OnProgress` for a caller who wants no progress."""


def ignore_stages(name: str) -> OnProgress:
    """An `OnStage` for a caller who wants no progress."""
    return ignore


def poll_while_running(
    work: Callable[[], T],
    poll: Callable[[], None],
    every_seconds: float = 0.5,
    abandon: Callable[[], None] | None = None,
) -> T:
    """Run `work` in a thread, call `poll` until it ends and once more; returns or raises what `work` does.

    The calling thread stays free for Ctrl-C, which ends the waiting at once. If `poll` raises, `abandon` should make
    `work` end; this function waits for that, so that the thread no longer uses Ray.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        while not outcome.done():
            wait([outcome], timeout=every_seconds)
            raise_if_interrupted()
            poll()
    except Exception:
        if abandon is not None:
            abandon()
            wait([outcome], timeout=_END_SECONDS)
        raise
    return outcome.result()
