"""A process that grades responses, and that the kernel ends where one of them would hang it or fill the memory.

Two limits hold in the process itself: its processor time, by a timer whose signal ends it wherever it is (in the middle
of a C call too, and even when its parent is gone), and its memory, by RLIMIT_AS. Processor time, not wall time, so that
a verdict does not depend on how busy the machine is.

Processes are forked by a fork server (`fork_server.py`), which has loaded the grader already. Each has a pipe of its
own to its parent. Whenever it dies, in the middle of a message too, the pipe ends; nothing that another process needs
is locked or half written.
"""

import contextlib
import dataclasses
import math
import os
import resource
import select
import signal
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import psutil

from ossft_ray.common.errors import InputError
from ossft_ray.common.verdict import CRASHED, MEMORY, TIMEOUT, UNPARSED, VERIFIER_ERROR, Verdict
from ossft_ray.verification.fork_server import FORK_SERVER
from ossft_ray.verification.kinds import Kind, load_kind, module_of

_MEMORY_EXIT_CODE = 99  # of a worker that ran into its memory limit
_LOAD_SECONDS = 120.0  # of processor time, for what a kind imports
_MAX_EXTRACTED_CHARACTERS = 2000
_JOIN_SECONDS = 10.0  # for the fork server to say how a process ended; it takes milliseconds


Settings = Mapping[str, Mapping[str, Any]]  # what is set for each kind


class Task(NamedTuple):
    """What there is to grade: a response, or where there is none, the gold answer itself."""

    answer: str
    response: str | None
    question: str = ""
    kind: str = ""  # the pool's own where empty

    @property
    def num_characters(self) -> int:
        return len(self.answer) + len(self.response or "") + len(self.question)


class WorkerDied(Exception):
    """The process is gone. `reason` is the verdict's: `timeout`, `memory` or `crashed`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Worker:
    """A grading process as its parent sees it. One thread uses it; others may only `kill` it, also if it is asleep.

    Raises:
        OSError, EOFError: no process could be started.
    """

    def __init__(self, kind: str, settings: Settings, timeout_seconds: float, memory_limit_mib: int) -> None:
        self.is_killed = self._was_asleep = False
        self._look_at = math.inf
        self._patience_seconds = self._used_seconds = 0.0
        self._reason: str | None = None  # once it has ended
        arguments = (kind, settings, timeout_seconds, memory_limit_mib)
        self._process = FORK_SERVER.start(module_of(kind), _serve, *arguments)
        self.pid, self._connection = self._process.pid, self._process.connection
        self._readable = select.poll()  # Connection.poll takes longer than all the rest of a verdict's way
        self._readable.register(self._connection, select.POLLIN)

    def wait_until_ready(self) -> None:
        """Return when the process has loaded what it needs.

        Raises:
            InputError: what it needs cannot be loaded.
            WorkerDied: it ended before.
        """
        if (refusal := self._receive()) is not None:
            self.kill()
            raise InputError(refusal)

    def is_idle(self) -> bool:
        """Whether the process lives and waits for a response to grade."""
        return not self.is_killed and not self._readable.poll(0)  # there is nothing to read but the pipe's end

    def send(self, task: Task) -> None:
        """Give it a response to grade. What it cannot read yet waits in the pipe.

        Raises:
            WorkerDied: see `receive`.
        """
        try:
            self._connection.send(tuple(task))
        except OSError:
            raise WorkerDied(self.end()) from None

    def receive(self) -> Verdict:
        """Wait for the verdict on the first response that was sent and has none yet.

        Raises:
            WorkerDied: grading took more than its limits, or the process died otherwise.
        """
        verdict: Verdict = self._receive()
        return verdict

    def _receive(self) -> Any:
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            raise WorkerDied(self.end()) from None

    def watch(self, since: float, patience_seconds: float = 0.0) -> None:
        """Look at it at times from `since` on, on the clock of `kill_if_asleep`; infinity for not at all."""
        self._look_at, self._patience_seconds = since + patience_seconds, patience_seconds

    def kill_if_asleep(self, now: float) -> None:
        """End it where it is watched and has hardly used the processor for as long as the patience lasts.

        On a machine that is busy enough a verdict may take any time; only its processor time has a limit.
        """
        if now < self._look_at or self.is_killed:
            return
        with contextlib.suppress(psutil.Error):
            times = psutil.Process(self.pid).cpu_times()
            used_seconds = times.user + times.system
            if used_seconds - self._used_seconds < self._patience_seconds / 1000:
                self._was_asleep = True
                self.kill()
            self._used_seconds, self._look_at = used_seconds, now + self._patience_seconds

    def kill(self) -> None:
        """End the process; whoever waits for it gets `WorkerDied`."""
        self.is_killed = True
        if self._reason is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def end(self) -> str:
        """End the process if it lives and let go of it; why it died: `timeout`, `memory` or `crashed`."""
        if self._reason is None:
            self.kill()  # changes nothing where it is dying already
            code = self._process.exit_code(_JOIN_SECONDS)
            self._process.close()
            reasons: dict[int | None, str] = {-signal.SIGPROF: TIMEOUT, _MEMORY_EXIT_CODE: MEMORY}
            self._reason = TIMEOUT if self._was_asleep else reasons.get(code, CRASHED)
        return self._reason


def _serve(
    connection: Connection, kind: str, settings: Settings, timeout_seconds: float, memory_limit_mib: int
) -> None:
    """What the process runs: grade what comes through the pipe, until the parent is gone."""
    # Silent: what sympy or antlr print about a model's LaTeX would break the progress bars of the parent.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    with contextlib.suppress(EOFError, OSError):
        try:
            graders = {kind: _load(kind, settings)}
        except InputError as error:
            connection.send(str(error))
            return
        connection.send(None)
        while True:
            task = Task(*connection.recv())
            name = task.kind or kind
            if name not in graders:  # a row's own, whose loading counts for no limit of its own
                try:
                    graders[name] = _load(name, settings)
                except InputError as error:
                    connection.send(Verdict(False, VERIFIER_ERROR, str(error)))
                    continue
            keywords = settings.get(name, {})
            connection.send(_grade_within_limits(graders[name], task, keywords, timeout_seconds, memory_limit_mib))


def _shortened(verdict: Verdict) -> Verdict:
    """The verdict with at most so much of the answer as anyone would read: a model may box megabytes."""
    if verdict.extracted is None or len(verdict.extracted) <= _MAX_EXTRACTED_CHARACTERS:
        return verdict
    return dataclasses.replace(verdict, extracted=f"{verdict.extracted[:_MAX_EXTRACTED_CHARACTERS]}…")


def _load(name: str, settings: Settings) -> Kind:
    """A kind, ready: no verdict pays for what is loaded late.

    Raises:
        InputError: what the settings name cannot be used.
    """
    signal.setitimer(signal.ITIMER_PROF, _LOAD_SECONDS)
    try:
        kind = load_kind(name)
        kind.check_answer("1", **settings.get(name, {}))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return kind


def _grade_within_limits(
    kind: Kind, task: Task, settings: Mapping[str, Any], timeout_seconds: float, memory_limit_mib: int
) -> Verdict:
    """Grade, or let the kernel end this process."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform == "linux":
        with open("/proc/self/statm", encoding="ascii") as statm:
            in_use = int(statm.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (in_use + memory_limit_mib * 2**20, hard))
    signal.setitimer(signal.ITIMER_PROF, timeout_seconds)
    try:
        if task.response is None:
            verdict = kind.check_answer(task.answer, question=task.question, **settings)
        else:
            verdict = kind.grade(task.answer, task.response, question=task.question, **settings)
        return _shortened(verdict)
    except MemoryError:
        os._exit(_MEMORY_EXIT_CODE)  # a heap so torn is not worth keeping
    except RecursionError:  # nested too deeply for the grader
        return Verdict(False, UNPARSED)
    except Exception as error:
        return Verdict(False, VERIFIER_ERROR, f"{type(error).__name__}: {error}")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))  # the next response must fit through the pipe
