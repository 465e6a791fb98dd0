"""How are many responses graded at the same time, so that a verdict does not depend on what else the machine does?

Workers (`worker.py`) limit processor time and memory; behind both, ten times the time limit on the wall clock ends one
that sleeps. Processor time still grows on a busy machine: caches and cores are shared. So a timeout is graded once
more with no other verdict beside it, and only then counts. And a worker may be killed by someone else, such as a
kernel without memory: what it graded is graded again, up to twice, before it counts as `crashed`. The memory limit is
the same wherever a response is graded, so `memory` is final.

A retry alone holds the others back until what is running has ended and it is graded itself. Then they have at least as
long before the next, so a pile of bombs slows the others down but never stops them.
"""

import asyncio
import atexit
import collections
import contextlib
import math
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Self

from ossft_ray.errors import InputError, JobError
from ossft_ray.verification.verdict import CRASHED, TIMEOUT, Verdict
from ossft_ray.verification.worker import Worker, WorkerDied

KINDS = ("math",)  # a kind is a module of this package with `grade(answer, response) -> Verdict`

MEMORY_LIMIT_MIB = 1024
_WALL_CLOCK_FACTOR = 10
_START_SECONDS = 300.0  # a worker's start on a machine that does much else
_NUM_STARTS = 5
_NUM_TRIES = 3


@dataclass(eq=False)
class _Job:
    answer: str
    response: str
    future: "Future[Verdict]" = field(default_factory=Future)
    worker: Worker | None = None  # that grades it now
    num_crashes: int = 0
    is_alone: bool = False  # it has timed out once, and is graded with no other beside it
    alone_since: float = 0.0  # when it, or its waiting for that, began to hold others back


class VerifierPool:
    """Worker processes that grade responses. Use it as a context manager, or call `close`.

    Any threads and event loops may share a pool. Every call gives a verdict, also when the grading process was ended
    (reasons `timeout`, `memory`) or died (`crashed`). The first calls start the workers.

    Args:
        kind: which grader, of `KINDS`.
        timeout_seconds: processor time that one verdict may take.
        num_workers: processes that grade at the same time.
        memory_limit_mib: memory that one verdict may take on top of what its worker has (enforced on Linux).

    Attributes:
        timeouts: verdicts that ended as `timeout`, when graded alone too.
        retries: gradings that were done again, after a timeout or because a worker died.

    Raises:
        InputError: there is no such kind.
    """

    def __init__(
        self,
        kind: str = "math",
        timeout_seconds: float = 5.0,
        num_workers: int = 2,
        memory_limit_mib: int = MEMORY_LIMIT_MIB,
    ) -> None:
        if kind not in KINDS:
            raise InputError(f"there is no verification kind '{kind}'; kinds: {', '.join(KINDS)}")
        self._grader = f"{__package__}.{kind}"
        self._num_workers = num_workers
        self._timeout_seconds = timeout_seconds
        self._memory_limit_mib = memory_limit_mib
        self.timeouts = self.retries = 0
        self._closing = threading.Event()
        self._changed = threading.Condition()  # guards what follows; only the threads of `_work` wait for it
        self._waiting: collections.deque[_Job] = collections.deque()
        self._timed_out: collections.deque[_Job] = collections.deque()  # they wait to be graded alone
        self._running: set[_Job] = set()
        self._held_since = math.inf  # since when others wait for a retry to begin
        self._others_until = -math.inf  # while others wait, no retry is due before
        self._workers: set[Worker] = set()
        self._threads: list[threading.Thread] = []

    async def verify(self, answer: str, response: str) -> Verdict:
        """Grade one response. Cancelling the call takes it out of the queue, or ends and replaces its worker.

        Raises:
            JobError: no worker can be started.
        """
        return await asyncio.wrap_future(self._submit(answer, response))

    def map(self, pairs: Iterable[tuple[str, str]]) -> Iterator[Verdict]:
        """Grade (answer, response) pairs: verdicts in order, while later pairs are read and graded.

        Raises:
            JobError: no worker can be started.
            CancelledError: the pool was closed meanwhile.
        """
        futures: collections.deque[Future[Verdict]] = collections.deque()
        try:
            for answer, response in pairs:
                futures.append(self._submit(answer, response))
                if len(futures) >= 32 * self._num_workers:
                    yield futures.popleft().result()
            while futures:
                yield futures.popleft().result()
        finally:
            for future in futures:
                future.cancel()

    def close(self) -> None:
        """End the workers and cancel what is still waiting. A second call does nothing."""
        with self._changed:
            if self._closing.is_set():
                return
            self._closing.set()
            unsettled = [*self._waiting, *self._timed_out, *self._running]
            for worker in self._workers:
                worker.kill()
            self._changed.notify_all()
        atexit.unregister(self.close)
        for job in unsettled:
            job.future.cancel()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _submit(self, answer: str, response: str) -> "Future[Verdict]":
        job = _Job(answer, response)
        job.future.add_done_callback(lambda future: self._abandon(job) if future.cancelled() else None)
        with self._changed:
            if self._closing.is_set():
                raise RuntimeError("this VerifierPool is closed")
            if not self._threads:
                self._start_threads()
            self._waiting.append(job)
            self._changed.notify()
        return job.future

    def _start_threads(self) -> None:
        atexit.register(self.close)  # before the interpreter takes the threads' modules away
        targets = [*[self._work] * self._num_workers, self._keep_time]
        self._threads = [threading.Thread(target=target, name="verifier", daemon=True) for target in targets]
        for thread in self._threads:
            thread.start()

    def _abandon(self, job: _Job) -> None:
        """Nobody waits for this job's verdict any more."""
        with self._changed:
            if job.worker is not None:
                job.worker.kill()
            self._changed.notify_all()  # it may have been what the others made room for

    def _work(self) -> None:
        """Take job after job to a worker process; `num_workers` threads do so, each with a process of its own."""
        worker: Worker | None = None
        while (job := self._take()) is not None:
            outcome: Verdict | Exception
            try:
                if worker is not None and not worker.is_idle():  # killed meanwhile
                    self._let_go(worker)
                    worker = None
                if worker is None:
                    worker = self._start_worker(job)
                self._give(job, worker, _WALL_CLOCK_FACTOR * self._timeout_seconds + 1)
                outcome = worker.grade(job.answer, job.response)
            except WorkerDied as death:
                outcome = Verdict(False, death.reason)
                self._let_go(worker)
                worker = None
            except Exception as error:
                outcome = error
            self._finish(job, outcome)
        self._let_go(worker)

    def _take(self) -> _Job | None:
        """Wait for the next job to grade; None when the pool is closed."""
        with self._changed:
            while not self._closing.is_set():
                for queue in (self._waiting, self._timed_out):
                    while queue and queue[0].future.cancelled():
                        queue.popleft()
                now = time.monotonic()
                is_due = self._timed_out and (not self._waiting or now >= self._others_until)
                if is_due and not self._running:
                    self._timed_out[0].alone_since = min(self._held_since, now)
                    return self._begin(self._timed_out)
                if self._waiting and not is_due and not any(job.is_alone for job in self._running):
                    return self._begin(self._waiting)
                self._held_since = min(self._held_since, now) if is_due and self._waiting else math.inf
                self._changed.wait()
        return None

    def _begin(self, queue: collections.deque[_Job]) -> _Job:
        self._held_since = math.inf
        self._running.add(queue[0])
        return queue.popleft()

    def _start_worker(self, job: _Job) -> Worker:
        """A worker that is ready. Its start counts for no limit of the job's."""
        for attempt in range(_NUM_STARTS):
            with contextlib.suppress(OSError, EOFError, WorkerDied):
                worker = Worker(self._grader, self._timeout_seconds, self._memory_limit_mib)
                try:
                    self._give(job, worker, _START_SECONDS)
                    worker.wait_until_ready()
                    return worker
                except WorkerDied:
                    self._let_go(worker)
            if job.future.cancelled() or self._closing.wait(0.1 * 2**attempt):
                raise WorkerDied(CRASHED)
        raise JobError(f"verification workers died {_NUM_STARTS} times while they started: out of memory or processes?")

    def _give(self, job: _Job, worker: Worker, seconds: float) -> None:
        """From now on the worker is at work for this job, for at most so long on the wall clock."""
        with self._changed:
            self._workers.add(worker)
            job.worker, worker.deadline = worker, time.monotonic() + seconds
            if job.future.cancelled() or self._closing.is_set():
                worker.kill()

    def _let_go(self, worker: Worker | None) -> None:
        """End the process, if there is one."""
        if worker is not None:
            with self._changed:
                self._workers.discard(worker)
            worker.end()

    def _finish(self, job: _Job, outcome: Verdict | Exception) -> None:
        """Hand over the verdict, or line the job up again."""
        with self._changed:
            self._running.remove(job)
            if job.worker is not None:
                job.worker.deadline = math.inf
                job.worker = None
            if job.is_alone:
                now = time.monotonic()
                self._others_until = now + (now - job.alone_since)
                self._changed.notify_all()
            if not job.future.cancelled() and not isinstance(outcome, Exception):
                if self._queue_again(job, outcome.reason):
                    self.retries += 1
                    return
                self.timeouts += outcome.reason == TIMEOUT
        with contextlib.suppress(InvalidStateError):  # cancelled just now
            if isinstance(outcome, Exception):
                job.future.set_exception(outcome)
            else:
                job.future.set_result(outcome)

    def _queue_again(self, job: _Job, reason: str) -> bool:
        """Line the job up once more, unless its verdict is final."""
        if reason == TIMEOUT and not job.is_alone:
            job.is_alone = True
            self._timed_out.append(job)
        elif reason == CRASHED and job.num_crashes < _NUM_TRIES - 1:
            job.num_crashes += 1
            (self._timed_out if job.is_alone else self._waiting).appendleft(job)
        else:
            return False
        return True

    def _keep_time(self) -> None:
        """One thread: ends the workers that are overdue on the wall clock."""
        while not self._closing.wait(min(1.0, self._timeout_seconds)):
            with self._changed:
                for worker in self._workers:
                    if time.monotonic() > worker.deadline:
                        worker.kill(is_overdue=True)
