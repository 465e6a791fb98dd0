"""A pool of verifiers: threads that each feed one worker process.

A worker process (`worker.py`) has limits on processor time and memory, and this pool kills one that sleeps. The
schedule (`schedule.py`) orders gradings, and repeats some so that no verdict depends on the load of the machine.
"""

import asyncio
import atexit
import collections
import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, InvalidStateError
from typing import TypeVar

from ossft_ray.common.errors import JobError
from ossft_ray.common.verdict import CRASHED, Verdict
from ossft_ray.config import Verify
from ossft_ray.verification.kinds import check_kind
from ossft_ray.verification.schedule import Job, Schedule
from ossft_ray.verification.worker import Task, Worker

_PATIENCE_FACTOR = 5  # a worker is asleep if it uses no processor time for this many time limits
_START_SECONDS = 300.0  # for a worker to start on a busy machine
_NUM_STARTS = 8  # of one worker, with pauses of 0.1 s to 13 s between them
_READ_AHEAD = 32  # items per worker
Item = TypeVar("Item")


class VerifierPool(contextlib.AbstractContextManager["VerifierPool"]):
    """Worker processes that grade responses. Use it as a context manager, or call `close`.

    Threads and event loops may share a pool. Every call returns a verdict, even if the grading process exceeded a
    limit (reasons `timeout`, `memory`) or died (`crashed`). The first call starts the workers.

    Args:
        verify: the kind of grader, which each task may override; the settings of all kinds; the limits on one verdict's
            processor time and, on Linux only, on its memory beyond what the worker holds; the number of workers.

    Raises:
        InputError: there is no such kind.
    """

    def __init__(self, verify: Verify) -> None:
        kind = check_kind(verify.kind)
        self._worker_arguments = (kind, verify.settings, verify.timeout_seconds, verify.memory_mib)
        self._num_workers = verify.num_workers
        self._patience_seconds = _PATIENCE_FACTOR * verify.timeout_seconds + 1
        self._watch_every_seconds = min(1.0, verify.timeout_seconds)
        self._closing = threading.Event()
        self._changed = threading.Condition()  # guards the attributes below
        self.schedule = Schedule()
        self._workers: dict[int, Worker] = {}  # by thread
        self._threads: list[threading.Thread] = []

    @property
    def worker_pids(self) -> list[int]:
        """The process ids of the workers."""
        with self._changed:
            return [worker.pid for worker in self._workers.values()]

    async def verify(self, answer: str, response: str, question: str = "", kind: str = "") -> Verdict:
        """Grade one response. Cancelling the call removes it from the queue, or kills and replaces its worker.

        Raises:
            JobError: no worker can be started.
            InputError: the kind needs something that cannot be loaded, such as a user's function.
        """
        return await asyncio.wrap_future(self._submit(Task(answer, response, question, kind)))

    def warm_up(self) -> None:
        """Start the fork server and a worker now, so that the first verdict need not wait seconds for them."""
        self._submit(Task("1", None))

    def map(self, tasks: Iterable[tuple[str, str] | Task]) -> Iterator[Verdict]:
        """Grade tasks, or pairs (answer, response), and yield verdicts in order; see `map_each`."""
        for _, (verdict,) in self.map_each(tasks, lambda task: [Task(*task)]):
            yield verdict

    def map_each(
        self, items: Iterable[Item], tasks: Callable[[Item], list[Task]]
    ) -> Iterator[tuple[Item, list[Verdict]]]:
        """Yield each item with the verdicts on its tasks, in order, while later items are read and graded.

        Raises:
            JobError: no worker can be started.
            InputError: a kind needs something that cannot be loaded, such as a user's function.
            CancelledError: the pool was closed.
        """
        pending: collections.deque[tuple[Item, list[Future[Verdict]]]] = collections.deque()
        try:
            for item in items:
                pending.append((item, [self._submit(task) for task in tasks(item)]))
                if len(pending) == _READ_AHEAD * self._num_workers:
                    yield pending[0][0], [future.result() for future in pending[0][1]]
                    pending.popleft()
            for item, futures in pending:
                yield item, [future.result() for future in futures]
        finally:
            for _, futures in pending:
                for future in futures:
                    future.cancel()

    def close(self) -> None:
        """End the workers and cancel all unfinished calls. Closing again does nothing."""
        with self._changed:
            if self._closing.is_set():
                return
            self._closing.set()
            unfinished = self.schedule.unfinished
            self._changed.notify_all()
        atexit.unregister(self.close)
        for job in unfinished:
            job.future.cancel()
        for thread in self._threads:
            thread.join()

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _submit(self, task: Task) -> "Future[Verdict]":
        job = Job(task)
        job.future.add_done_callback(lambda future: self._cancel(job) if future.cancelled() else None)
        with self._changed:
            if self._closing.is_set():
                raise RuntimeError("this VerifierPool is closed")
            if not self._threads:
                self._start_threads()
            self.schedule.add(job)
            self._changed.notify()
        return job.future

    def _cancel(self, job: Job) -> None:
        with self._changed:
            if job.worker is not None:
                job.worker.kill()
            self._changed.notify_all()  # other jobs may have waited for this one

    def _start_threads(self) -> None:
        atexit.register(self.close)  # before the interpreter unloads the modules that the threads use
        targets = [*[self._run_jobs] * self._num_workers, self._watch_workers]
        self._threads = [threading.Thread(target=target, name="verifier", daemon=True) for target in targets]
        for thread in self._threads:
            thread.start()

    def _run_jobs(self) -> None:
        """Grade job after job with this thread's worker process, until the pool is closed."""
        worker: Worker | None = None
        while (job := self._next_job()) is not None:
            outcome: Verdict | Exception = Verdict(False, CRASHED)
            try:
                if worker is not None and not worker.is_idle():  # it has died since its last job
                    worker.end()
                    worker = None
                worker = worker or self._start_worker(job)
                if worker is not None:
                    self._assign(job, worker, self._patience_seconds)
                    outcome = worker.grade(job.task)
            except Exception as error:
                outcome = error
                if worker is not None:
                    worker.end()  # its pipe may hold part of a message
            self._finish(job, outcome)
        if worker is not None:
            worker.end()

    def _next_job(self) -> Job | None:
        """Wait for the next job to grade; None when the pool is closed."""
        with self._changed:
            while not self._closing.is_set():
                if (job := self.schedule.next(time.monotonic())) is not None:
                    return job
                self._changed.wait()
        return None

    def _start_worker(self, job: Job) -> Worker | None:
        """Start a worker and wait until it is ready; None if the job was cancelled or the pool closed."""
        for attempt in range(_NUM_STARTS):
            with contextlib.suppress(OSError, EOFError):
                worker = Worker(*self._worker_arguments)
                self._assign(job, worker, _START_SECONDS)
                if worker.wait_until_ready():
                    return worker
            if job.future.cancelled() or self._closing.wait(0.1 * 2**attempt):
                return None
        raise JobError(f"verification workers died {_NUM_STARTS} times while they started: out of memory or processes?")

    def _assign(self, job: Job, worker: Worker, seconds: float) -> None:
        """Assign the worker to a job; it is killed if it sleeps for `seconds`."""
        with self._changed:
            self._workers[threading.get_ident()] = job.worker = worker
            worker.watch(time.monotonic(), seconds)
            if job.future.cancelled():
                worker.kill()

    def _finish(self, job: Job, outcome: Verdict | Exception) -> None:
        """Deliver the verdict or the error of a job, unless it is queued again."""
        reason = outcome.reason if isinstance(outcome, Verdict) else None
        with self._changed:
            job.worker = None
            is_final = self.schedule.finish(job, reason, time.monotonic())
            if job.must_run_alone:
                self._changed.notify_all()  # other jobs may have waited for this one
        if is_final:
            with contextlib.suppress(InvalidStateError):  # it was cancelled just now
                if isinstance(outcome, Exception):
                    job.future.set_exception(outcome)
                else:
                    job.future.set_result(outcome)

    def _watch_workers(self) -> None:
        """Kill workers that sleep instead of grading; one thread does this for all."""
        while not self._closing.wait(self._watch_every_seconds):
            with self._changed:
                for job in self.schedule.unfinished:
                    if job.worker is not None:
                        job.worker.kill_if_asleep(time.monotonic())
