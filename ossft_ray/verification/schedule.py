"""The order in which responses are graded: as they arrive, with some graded again.

A response that times out is graded once more while nothing else runs, and only a second timeout counts, because shared
caches and cores make a busy machine slower. A response whose worker died is graded up to twice more before it counts as
`crashed`, because the worker may have been killed from outside, for instance by the kernel when memory runs out. The
memory limit does not depend on other gradings, so `memory` is final.

A retry that must run alone waits until the running gradings end, and new ones wait until it ends. The next retry starts
only after the others ran for at least as long as they were held up. So even many timeouts at most halve the speed of
the others.
"""

import collections
import math
from concurrent.futures import Future
from dataclasses import dataclass, field

from ossft_ray.common.verdict import CRASHED, TIMEOUT, Verdict
from ossft_ray.verification.worker import Task, Worker

_MAX_CRASHES = 3


@dataclass(eq=False)
class Job:
    """A response to grade, with the future that gets its verdict."""

    task: Task
    future: "Future[Verdict]" = field(default_factory=Future)
    worker: Worker | None = None  # the worker that grades it now
    num_crashes: int = 0
    must_run_alone: bool = False  # because it has timed out once


class Schedule:
    """The queues of waiting jobs and the set of running ones. The caller passes the time, in seconds of one clock.

    Attributes:
        timeouts: final verdicts with the reason `timeout`.
        retries: gradings that were repeated.
    """

    def __init__(self) -> None:
        self.timeouts = self.retries = 0
        self._waiting: collections.deque[Job] = collections.deque()
        self._timed_out: collections.deque[Job] = collections.deque()  # waiting to run alone
        self._running: set[Job] = set()
        self._held_since = math.inf  # when the next retry, or the one that runs, began to hold up other jobs
        self._no_retry_before = -math.inf  # applies while other jobs wait

    @property
    def unfinished(self) -> list[Job]:
        return [*self._waiting, *self._timed_out, *self._running]

    def add(self, job: Job) -> None:
        self._waiting.append(job)

    def next(self, now: float) -> Job | None:
        """Start the job that an idle worker should grade; None if no job may start now."""
        for queue in (self._waiting, self._timed_out):
            while queue and queue[0].future.cancelled():
                queue.popleft()
        if any(job.must_run_alone for job in self._running):
            return None
        if not self._timed_out or (self._waiting and now < self._no_retry_before):
            self._held_since = math.inf
            return self._start(self._waiting) if self._waiting else None
        if self._running:
            self._held_since = min(self._held_since, now) if self._waiting else math.inf
            return None
        self._held_since = min(self._held_since, now)
        return self._start(self._timed_out)

    def finish(self, job: Job, reason: str | None, now: float) -> bool:
        """End a running job: True if its verdict is final, False if it is queued again.

        The reason is the verdict's, or None if grading raised an error.
        """
        self._running.remove(job)
        if job.must_run_alone:
            self._no_retry_before = now + (now - self._held_since)
            self._held_since = math.inf
        if job.future.cancelled():
            return True
        if reason == TIMEOUT and not job.must_run_alone:
            job.must_run_alone = True
            self._timed_out.append(job)
        elif reason == CRASHED and job.num_crashes + 1 < _MAX_CRASHES:
            job.num_crashes += 1
            (self._timed_out if job.must_run_alone else self._waiting).appendleft(job)
        else:
            self.timeouts += reason == TIMEOUT
            return True
        self.retries += 1
        return False

    def _start(self, queue: collections.deque[Job]) -> Job:
        job = queue.popleft()
        self._running.add(job)
        return job
