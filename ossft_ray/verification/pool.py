"""How is a model's answer graded without hanging or filling the memory? In processes that the kernel can end.

A grader runs in worker processes (pebble). Three things bound a verdict: its processor time, by a timer whose signal
ends the process wherever it is (in the middle of a C call too, and even when the parent is gone); its memory, by
RLIMIT_AS; and, behind both, ten times the time limit on the wall clock. Processor time, not wall time, so that a
verdict does not depend on how busy the machine is. A worker that ends is replaced.

Workers are forked from a fork server, a small process that has loaded the grader already: the parent itself may hold
CUDA, threads and a vLLM engine, which must not be forked, and a fresh interpreter would take seconds to load sympy.
"""

import asyncio
import collections
import contextlib
import importlib
import multiprocessing.context
import os
import resource
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError, InvalidStateError
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple, Self

from pebble import ProcessExpired, ProcessFuture, ProcessPool

from ossft_ray.errors import InputError, JobError
from ossft_ray.verification.verdict import CRASHED, MEMORY, TIMEOUT, UNPARSED, Verdict

KINDS = ("math",)  # a kind is a module of this package with `grade(answer, response) -> Verdict`

MEMORY_LIMIT_MIB = 1024
_WALL_CLOCK_FACTOR = 10
_NUM_TRIES = 3
_MEMORY_EXIT_CODE = 99  # of a worker that ran into its memory limit


class _Job(NamedTuple):
    answer: str
    response: str
    pool: ProcessPool
    future: "ProcessFuture[Verdict]"


class VerifierPool:
    """Worker processes that grade responses. Use it as a context manager, or call `close`.

    Any threads and event loops may share a pool. Every call gives a verdict, also when the grading process was ended
    (reasons `timeout`, `memory`) or died (`crashed`). The first call starts the workers.

    Args:
        kind: which grader, of `KINDS`.
        timeout_seconds: processor time that one verdict may take.
        num_workers: processes that grade at the same time.
        memory_limit_mib: memory that one verdict may take on top of what its worker has (enforced on Linux).

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
        self._lock = threading.Lock()
        self._unsettled: set[ProcessFuture[Verdict]] = set()
        self._closed = False
        self._pool = self._new_pool()

    async def verify(self, answer: str, response: str) -> Verdict:
        """Grade one response. Cancelling the call takes it out of the queue, or ends and replaces its worker.

        Raises:
            JobError: no worker can be started.
        """
        job = self._submit(answer, response)
        for _ in range(_NUM_TRIES):
            try:
                return await asyncio.wrap_future(job.future)
            except BrokenProcessPool:
                job = self._submit_again(job)
            except Exception as error:
                return _verdict_on(error)
        raise _workers_died()

    def map(self, pairs: Iterable[tuple[str, str]]) -> Iterator[Verdict]:
        """Grade (answer, response) pairs: verdicts in order, while later pairs are read and graded.

        Raises:
            JobError: no worker can be started.
            CancelledError: the pool was closed meanwhile.
        """
        jobs: collections.deque[_Job] = collections.deque()
        try:
            for answer, response in pairs:
                jobs.append(self._submit(answer, response))
                if len(jobs) >= 32 * self._num_workers:
                    yield self._wait(jobs.popleft())
            while jobs:
                yield self._wait(jobs.popleft())
        finally:
            for job in jobs:
                job.future.cancel()

    def close(self) -> None:
        """End the workers and cancel what is still waiting. A second call does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            pool, unsettled = self._pool, list(self._unsettled)
        for future in unsettled:
            future.cancel()
        _end(pool)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _submit(self, answer: str, response: str) -> _Job:
        task = (self._grader, answer, response, self._timeout_seconds, self._memory_limit_mib)
        wall_clock_seconds = _WALL_CLOCK_FACTOR * self._timeout_seconds + 1
        for _ in range(_NUM_TRIES):
            with self._lock:
                if self._closed:
                    raise RuntimeError("this VerifierPool is closed")
                pool = self._pool
                with contextlib.suppress(RuntimeError):  # this pool is broken
                    # Counted from when a worker takes the task: neither queueing nor its start-up counts.
                    future = pool.schedule(_grade_within_limits, args=task, timeout=wall_clock_seconds)
                    self._unsettled.add(future)
                    future.add_done_callback(self._unsettled.discard)
                    return _Job(answer, response, pool, future)
            self._replace(pool)
        raise _workers_died()

    def _submit_again(self, job: _Job) -> _Job:
        self._replace(job.pool)
        return self._submit(job.answer, job.response)

    def _wait(self, job: _Job) -> Verdict:
        for _ in range(_NUM_TRIES):
            try:
                return job.future.result()
            except BrokenProcessPool:
                job = self._submit_again(job)
            except CancelledError:
                raise
            except Exception as error:
                return _verdict_on(error)
        raise _workers_died()

    def _new_pool(self) -> ProcessPool:
        context = _Context()
        context.set_forkserver_preload([self._grader])
        return ProcessPool(self._num_workers, initializer=_prepare_worker, initargs=[self._grader], context=context)

    def _replace(self, broken: ProcessPool) -> None:
        """Go on with a new pool: pebble gives a pool up when a worker dies while none of them is at work."""
        with self._lock:
            if self._pool is not broken or self._closed:
                return
            self._pool = self._new_pool()
            stranded = list(self._unsettled)  # all of them the broken pool's: the new one has no task yet
        for future in stranded:
            with contextlib.suppress(InvalidStateError):  # pebble has told most of them itself
                future.set_exception(BrokenProcessPool())
        _end(broken)


def _verdict_on(error: Exception) -> Verdict:
    """The verdict on a response whose grading ended in `error`."""
    if isinstance(error, TimeoutError):
        return Verdict(False, TIMEOUT)
    if isinstance(error, ProcessExpired):
        # SIGKILL is how Linux ends a process when the whole machine is out of memory.
        reasons = {-signal.SIGPROF: TIMEOUT, _MEMORY_EXIT_CODE: MEMORY, -signal.SIGKILL: MEMORY}
        return Verdict(False, reasons.get(error.exitcode, CRASHED))
    return Verdict(False, CRASHED)


def _workers_died() -> JobError:
    return JobError(
        f"verification workers died {_NUM_TRIES} times before grading anything: out of memory or processes?"
    )


def _end(pool: ProcessPool) -> None:
    pool.stop()
    with contextlib.suppress(RuntimeError, OSError):
        pool.join()


class _Worker(multiprocessing.context.ForkServerProcess):
    """A process that does not import its parent's main module.

    multiprocessing would run the user's script again in each worker (without end, if it has no `__name__` guard), or
    import Ray where the parent is a Ray actor. No worker needs anything of it.
    """

    def start(self) -> None:
        main = sys.modules["__main__"]
        hidden = {name: getattr(main, name) for name in ("__file__", "__spec__") if hasattr(main, name)}
        try:
            for name in hidden:
                setattr(main, name, None)
            super().start()
        finally:
            for name, value in hidden.items():
                setattr(main, name, value)


class _Context(multiprocessing.context.ForkServerContext):
    Process = _Worker


def _prepare_worker(grader: str) -> None:
    """Runs in each worker before its first task, so that no verdict pays for the start."""
    # Silent: what sympy or antlr print about a model's LaTeX would break the progress bars of the parent.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    # End at once when told to: pebble's own handler waits until a C call returns, while it holds up other workers.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    importlib.import_module(grader).grade("1", "\\boxed{2}")


def _grade_within_limits(
    grader: str, answer: str, response: str, timeout_seconds: float, memory_limit_mib: int
) -> Verdict:
    """Runs in a worker: grade, or let the kernel end this process."""
    if sys.platform == "linux":
        with open("/proc/self/statm", encoding="ascii") as statm:
            in_use = int(statm.read().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (in_use + memory_limit_mib * 2**20, hard))
    signal.setitimer(signal.ITIMER_PROF, timeout_seconds)
    try:
        verdict: Verdict = importlib.import_module(grader).grade(answer, response)
        return verdict
    except MemoryError:
        os._exit(_MEMORY_EXIT_CODE)  # a heap so torn is not worth keeping
    except Exception:  # a grader's bug, or recursion too deep for its own handler: the text could not be read
        return Verdict(False, UNPARSED)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
