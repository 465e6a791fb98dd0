"""How are many responses graded at the same time? By threads that each feed a process of their own.

A worker process (`worker.py`) limits processor time and memory; behind both, the wall clock ends one that sleeps. What
is graded next, and what once more, so that a verdict does not depend on what else the
machine does, is decided in `schedule.py`.
"""

import asyncio
import atexit
import collections
import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, InvalidStateError
from typing import Self, TypeVar

from ossft_ray.common.errors import JobError
from ossft_ray.common.verdict import CRASHED, Verdict
from ossft_ray.config import Verify
from ossft_ray.verification.kinds import check_kind
from ossft_ray.verification.schedule import Job, Schedule
from ossft_ray.verification.worker import Settings, Task, Worker, WorkerDied

MEMORY_LIMIT_MIB = 1024
_PATIENCE_FACTOR = 5  # times the time limit without using the processor, and a worker is asleep
_START_SECONDS = 300.0  # a worker's start on a machine that does much else
_NUM_STARTS = 5
Item = TypeVar("Item")


class VerifierPool:
    """Worker processes that grade responses. Use it as a context manager, or call `close`.

    Any threads and event loops may share a pool. Every call gives a verdict, also when the grading process was ended
    (reasons `timeout`, `memory`) or died (`crashed`). The first calls start the workers.

    Args:
        kind: which grader, of `kinds()`; each call may name another.
        timeout_seconds: processor time that one verdict may take.
        num_workers: processes that grade at the same time.
        memory_limit_mib: memory that one verdict may take on top of what its worker has (enforced on Linux).
        settings: what is set for each kind, as keywords by the kind's name.

    Raises:
        InputError: there is no such kind.
    """

    @classmethod
    def of(cls, verify: Verify) -> Self:
        """The pool that an experiment's `[verify]` asks for.

        Raises:
            InputError: there is no such kind.
        """
        return cls(verify.kind, verify.timeout_seconds, verify.num_workers, verify.memory_mib, verify.settings)

    def __init__(
        self,
        kind: str = "math",
        timeout_seconds: float = 5.0,
        num_workers: int = 2,
        memory_limit_mib: int = MEMORY_LIMIT_MIB,
        settings: Settings | None = None,
    ) -> None:
        self._kind, self._settings = check_kind(kind), settings or {}
        self._num_workers = num_workers
        self._timeout_seconds = timeout_seconds
        self._memory_limit_mib = memory_limit_mib
        self._patience_seconds = _PATIENCE_FACTOR * timeout_seconds + 1
        self._closing = threading.Event()
        self._changed = threading.Condition()  # guards what follows; only the threads of `_work` wait for it
        self._schedule = Schedule()
        self._num_idle = 0  # threads that wait for a job
        self._workers: set[Worker] = set()
        self._threads: list[threading.Thread] = []

    @property
    def timeouts(self) -> int:
        """Verdicts that ended as `timeout`, when graded alone too."""
        return self._schedule.timeouts

    @property
    def retries(self) -> int:
        """Gradings that were done again, after a timeout or because a worker died."""
        return self._schedule.retries

    async def verify(self, answer: str, response: str, question: str = "", kind: str = "") -> Verdict:
        """Grade one response. Cancelling the call takes it out of the queue, or ends and replaces its worker.

        Raises:
            JobError: no worker can be started.
            InputError: what the kind needs, such as a user's function, cannot be loaded.
        """
        return await asyncio.wrap_future(self._submit(answer, response, question, kind))

    def warm_up(self) -> None:
        """Start now what the first verdict would start, for seconds: the server that workers are forked from."""
        self._submit("1", r"\boxed{1}", kind="math")

    def map(self, tasks: Iterable[tuple[str, str] | Task]) -> Iterator[Verdict]:
        """Grade tasks, or pairs (answer, response): verdicts in order, while later ones are read and graded.

        Raises:
            JobError: no worker can be started.
            InputError: what the kind needs, such as a user's function, cannot be loaded.
            CancelledError: the pool was closed meanwhile.
        """
        futures: collections.deque[Future[Verdict]] = collections.deque()
        try:
            for task in tasks:
                futures.append(self._submit(*task))
                if len(futures) >= 32 * self._num_workers:
                    yield futures.popleft().result()
            while futures:
                yield futures.popleft().result()
        finally:
            for future in futures:
                future.cancel()

    def map_each(
        self, items: Iterable[Item], tasks: Callable[[Item], list[Task]]
    ) -> Iterator[tuple[Item, list[Verdict]]]:
        """Items with the verdicts on their tasks (any number of them), in order; raises what `map` does."""
        waiting: collections.deque[tuple[Item, int]] = collections.deque()

        def flat() -> Iterator[Task]:
            for item in items:
                of_item = tasks(item)
                waiting.append((item, len(of_item)))
                yield from of_item

        verdicts: list[Verdict] = []
        for verdict in self.map(flat()):
            verdicts.append(verdict)
            while waiting and waiting[0][1] <= len(verdicts):
                item, number = waiting.popleft()
                yield item, verdicts[:number]
                del verdicts[:number]
        yield from ((item, []) for item, _ in waiting)

    def close(self) -> None:
        """End the workers and cancel what is still waiting. A second call does nothing."""
        with self._changed:
            if self._closing.is_set():
                return
            self._closing.set()
            unsettled = self._schedule.unsettled
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

    def _submit(self, answer: str, response: str | None, question: str = "", kind: str = "") -> "Future[Verdict]":
        job = Job(Task(answer, response, question, kind))
        job.future.add_done_callback(lambda future: self._abandon(job) if future.cancelled() else None)
        with self._changed:
            if self._closing.is_set():
                raise RuntimeError("this VerifierPool is closed")
            if not self._threads:
                self._start_threads()
            self._schedule.add(job)
            self._changed.notify()
        return job.future

    def _start_threads(self) -> None:
        atexit.register(self.close)  # before the interpreter takes the threads' modules away
        targets = [*[self._work] * self._num_workers, self._keep_time]
        self._threads = [threading.Thread(target=target, name="verifier", daemon=True) for target in targets]
        for thread in self._threads:
            thread.start()

    def _abandon(self, job: Job) -> None:
        """Nobody waits for this job's verdict any more."""
        with self._changed:
            if job.worker is not None:
                job.worker.kill()
            self._changed.notify_all()  # it may have been what the others made room for

    def _work(self) -> None:
        """Take job after job to a worker process; `num_workers` threads do so, each with a process of its own."""
        worker: Worker | None = None
        jobs: collections.deque[Job] = collections.deque()  # that the worker grades, or will next
        while (job := self._take()) is not None:
            jobs.append(job)
            try:
                if worker is not None and not worker.is_idle():  # killed meanwhile
                    self._let_go(worker)
                    worker = None
                if worker is None:
                    worker = self._start_worker(job)
                self._grade(jobs, worker)
            except WorkerDied as death:
                self._finish(jobs, Verdict(False, death.reason))
            except Exception as error:
                if worker is not None:
                    worker.kill()  # who knows what stands in its pipe
                self._finish(jobs, error)
            if worker is not None and worker.is_killed:
                self._let_go(worker)
                worker = None
        self._let_go(worker)

    def _grade(self, jobs: collections.deque[Job], worker: Worker) -> None:
        """Grade the one job that there is, and as many more as can be lined up behind it."""
        self._give(jobs[0], worker, self._patience_seconds)
        worker.send(jobs[0].task)
        while jobs:
            if len(jobs) == 1 and (following := self._take_following(jobs[0])) is not None:
                jobs.append(following)
                worker.send(following.task)
            verdict = worker.receive()
            self._finish(jobs, verdict)
            if jobs:
                self._give(jobs[0], worker, self._patience_seconds)

    def _take(self) -> Job | None:
        """Wait for the next job to grade; None when the pool is closed."""
        with self._changed:
            while not self._closing.is_set():
                if (job := self._schedule.next(time.monotonic())) is not None:
                    return job
                self._num_idle += 1
                self._changed.wait()
                self._num_idle -= 1
        return None

    def _take_following(self, job: Job) -> Job | None:
        with self._changed:
            return self._schedule.following(job, self._num_idle, time.monotonic())

    def _start_worker(self, job: Job) -> Worker:
        """A worker that is ready. Its start counts for no limit of the job's."""
        for attempt in range(_NUM_STARTS):
            with contextlib.suppress(OSError, EOFError, WorkerDied):
                worker = Worker(self._kind, self._settings, self._timeout_seconds, self._memory_limit_mib)
                try:
                    self._give(job, worker, _START_SECONDS)
                    worker.wait_until_ready()
                    return worker
                except WorkerDied:
                    self._let_go(worker)
            if job.future.cancelled() or self._closing.wait(0.1 * 2**attempt):
                raise WorkerDied(CRASHED)
        raise JobError(f"verification workers died {_NUM_STARTS} times while they started: out of memory or processes?")

    def _give(self, job: Job, worker: Worker, seconds: float) -> None:
        """From now on the worker is at work for this job, and should use the processor now and then."""
        with self._changed:
            self._workers.add(worker)
            job.worker = worker
            worker.watch(time.monotonic(), seconds)
            if job.future.cancelled() or self._closing.is_set():
                worker.kill()

    def _let_go(self, worker: Worker | None) -> None:
        """End the process, if there is one."""
        if worker is not None:
            with self._changed:
                self._workers.discard(worker)
            worker.end()

    def _finish(self, jobs: collections.deque[Job], outcome: Verdict | Exception) -> None:
        """Hand over the first job's verdict, or line it up again; where its worker died, also those behind it."""
        job = jobs.popleft()
        with self._changed:
            if job.worker is not None:
                job.worker.watch(math.inf)
                if job.worker.is_killed:
                    while jobs:
                        self._schedule.put_back(jobs.pop())
                job.worker = None
            is_final = self._schedule.finish(job, getattr(outcome, "reason", None), time.monotonic())
            if job.is_alone:
                self._changed.notify_all()
        if is_final:
            with contextlib.suppress(InvalidStateError):  # cancelled just now
                if isinstance(outcome, Exception):
                    job.future.set_exception(outcome)
                else:
                    job.future.set_result(outcome)

    def _keep_time(self) -> None:
        """One thread: ends the workers that sleep at work."""
        while not self._closing.wait(min(1.0, self._timeout_seconds)):
            with self._changed:
                for worker in self._workers:
                    worker.kill_if_asleep(time.monotonic())
