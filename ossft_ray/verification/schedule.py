"""Which response is graded next? In the order in which they came, and some once more.

A timeout is graded again with no other verdict beside it, and only then counts: processor time grows on a busy machine
too, since caches and cores are shared. What lost its worker is graded again, up to twice, before it counts as
`crashed`: someone else may have killed it, such as a kernel without memory. The memory limit is the same wherever a
response is graded, so `memory` is final.

A retry alone holds the others back until what is running has ended and it is graded itself. Then they have at least as
long before the next, so a pile of bombs slows the others down but never stops them.
"""

import collections
import math
from concurrent.futures import Future
from dataclasses import dataclass, field

from ossft_ray.common.verdict import CRASHED, TIMEOUT, Verdict
from ossft_ray.verification.worker import Task, Worker

_NUM_TRIES = 3
_SMALL_CHARACTERS = 10_000  # fits into a pipe that nobody reads, whatever the characters are


@dataclass(eq=False)
class Job:
    """A response to grade."""

    task: Task
    future: "Future[Verdict]" = field(default_factory=Future)
    worker: Worker | None = None  # that grades it now
    num_crashes: int = 0
    is_alone: bool = False  # it has timed out once, and is graded with no other beside it
    alone_since: float = 0.0  # when it, or its waiting for that, began to hold others back


class Schedule:
    """What waits and what runs. Times are seconds of one clock that the caller reads.

    Attributes:
        timeouts: verdicts that ended as `timeout`, when graded alone too.
        retries: gradings that were lined up again.
    """

    def __init__(self) -> None:
        self.timeouts = self.retries = 0
        self._waiting: collections.deque[Job] = collections.deque()
        self._timed_out: collections.deque[Job] = collections.deque()  # they wait to be graded alone
        self._running: set[Job] = set()
        self._held_since = math.inf  # since when others wait for a retry to begin
        self._others_until = -math.inf  # while others wait, no retry is due before

    @property
    def unsettled(self) -> list[Job]:
        return [*self._waiting, *self._timed_out, *self._running]

    def add(self, job: Job) -> None:
        self._waiting.append(job)

    def next(self, now: float) -> Job | None:
        """The job that an idle worker should grade, which counts as running from now on; None while there is none."""
        for queue in (self._waiting, self._timed_out):
            while queue and queue[0].future.cancelled():
                queue.popleft()
        is_due = self._is_retry_due(now)
        if is_due and not self._running:
            self._timed_out[0].alone_since = min(self._held_since, now)
            return self._begin(self._timed_out)
        if self._waiting and not is_due and not any(job.is_alone for job in self._running):
            return self._begin(self._waiting)
        self._held_since = min(self._held_since, now) if is_due and self._waiting else math.inf
        return None

    def following(self, job: Job, num_idle: int, now: float) -> Job | None:
        """A job to line up at the worker that grades `job`, so that it need not wait for the next one.

        A small one, that more wait for than `num_idle` workers could take at once; it counts as running too.
        """
        if job.is_alone or len(self._waiting) <= num_idle or self._is_retry_due(now):
            return None
        first = self._waiting[0]
        is_small = first.task.num_characters <= _SMALL_CHARACTERS
        return self._begin(self._waiting) if is_small and not first.future.cancelled() else None

    def put_back(self, job: Job) -> None:
        """It was lined up at a worker that died before."""
        self._running.remove(job)
        (self._timed_out if job.is_alone else self._waiting).appendleft(job)

    def finish(self, job: Job, reason: str | None, now: float) -> bool:
        """Whether the verdict of a job that ran is final; else it is lined up again. `reason` is None for a failure."""
        self._running.remove(job)
        if job.is_alone:
            self._others_until = now + (now - job.alone_since)
        if job.future.cancelled():
            return True
        if reason == TIMEOUT and not job.is_alone:
            job.is_alone = True
            self._timed_out.append(job)
        elif reason == CRASHED and job.num_crashes < _NUM_TRIES - 1:
            job.num_crashes += 1
            (self._timed_out if job.is_alone else self._waiting).appendleft(job)
        else:
            self.timeouts += reason == TIMEOUT
            return True
        self.retries += 1
        return False

    def _is_retry_due(self, now: float) -> bool:
        return bool(self._timed_out) and (not self._waiting or now >= self._others_until)

    def _begin(self, queue: collections.deque[Job]) -> Job:
        self._held_since = math.inf
        self._running.add(queue[0])
        return queue.popleft()
