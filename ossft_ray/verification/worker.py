"""A worker process that grades responses, and its counterpart in the parent process.

The worker sets two limits for each grading. RLIMIT_AS limits its memory. A timer kills it wherever it is, even in C
code or after its parent has died. It counts processor time, so a verdict does not depend on the load of the machine.

A fork server (`fork_server.py`) forks the workers after it has loaded the grader. Each worker has its own pipe to its
parent. If a worker dies, even in the middle of a message, that pipe ends and no other process is affected.
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

_MEMORY_EXIT_CODE = 99  # of a worker that exceeded its memory limit
_LOAD_SECONDS = 120.0  # limit on the processor time for importing a kind
_MAX_EXTRACTED_CHARACTERS = 2000
_EXIT_CODE_SECONDS = 10.0  # for the fork server to report an exit code, which takes milliseconds

Settings = Mapping[str, Mapping[str, Any]]  # the keyword arguments of each kind


class Task(NamedTuple):
    """A response to grade or, with None as the response, a gold answer to check."""

    answer: str
    response: str | None
    question: str = ""
    kind: str = ""  # empty for the kind of the pool


class Worker:
    """A worker process as its parent sees it. One thread uses it; other threads may only kill it.

    Raises:
        OSError, EOFError: no process could be started.
    """

    def __init__(self, kind: str, settings: Settings, timeout_seconds: float, memory_mib: int) -> None:
        arguments = (kind, settings, timeout_seconds, memory_mib)
        self._process = FORK_SERVER.start(module_of(kind), _serve, *arguments)
        self.pid, self._connection = self._process.pid, self._process.connection
        self._readable = select.poll()  # Connection.poll would take longer than all other steps of an easy verdict
        self._readable.register(self._connection, select.POLLIN)
        self._is_killed = self._was_asleep = False
        self._check_at = math.inf
        self._patience_seconds = self._used_seconds = 0.0
        self._death_reason: str | None = None

    def wait_until_ready(self) -> bool:
        """Wait until the process has loaded its kind; False if it died.

        Raises:
            InputError: the kind needs something that cannot be loaded.
        """
        try:
            problem = self._connection.recv()
        except (EOFError, OSError):
            self.end()
            return False
        if problem is not None:
            self.end()
            raise InputError(problem)
        return True

    def is_idle(self) -> bool:
        """Whether the process lives and waits for a task."""
        return not self._is_killed and not self._readable.poll(0)  # only the end of the pipe could be read now

    def grade(self, task: Task) -> Verdict:
        """Return the verdict on a task; its reason is `timeout`, `memory` or `crashed` if the process died."""
        try:
            self._connection.send(tuple(task))
            verdict: Verdict = self._connection.recv()
        except (EOFError, OSError):
            return Verdict(False, self.end())
        return verdict

    def watch(self, now: float, patience_seconds: float) -> None:
        """Start to watch for sleep: `kill_if_asleep` checks each time the patience has passed."""
        self._check_at, self._patience_seconds = now + patience_seconds, patience_seconds

    def kill_if_asleep(self, now: float) -> None:
        """Kill the process if a check is due and it has used almost no processor time since the last check.

        On a busy machine a verdict may take long, but its process makes progress. A sleeping process makes none.
        """
        if now < self._check_at or self._is_killed:
            return
        with contextlib.suppress(psutil.Error):
            times = psutil.Process(self.pid).cpu_times()
            used_seconds = times.user + times.system
            if used_seconds - self._used_seconds < self._patience_seconds / 1000:
                self._was_asleep = True
                self.kill()
            self._used_seconds, self._check_at = used_seconds, now + self._patience_seconds

    def kill(self) -> None:
        """Kill the process. A thread in `grade` or `wait_until_ready` then returns."""
        self._is_killed = True
        if self._death_reason is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def end(self) -> str:
        """Kill the process if it lives, close its pipes, and return why it died: `timeout`, `memory` or `crashed`."""
        if self._death_reason is None:
            self.kill()  # no effect on a process that is dying already
            code = self._process.exit_code(_EXIT_CODE_SECONDS)
            self._process.close()
            reasons: dict[int | None, str] = {-signal.SIGPROF: TIMEOUT, _MEMORY_EXIT_CODE: MEMORY}
            self._death_reason = TIMEOUT if self._was_asleep else reasons.get(code, CRASHED)
        return self._death_reason


def _serve(connection: Connection, kind: str, settings: Settings, timeout_seconds: float, memory_mib: int) -> None:
    """Grade the tasks that arrive on the connection, until the parent closes it. This runs in the worker process."""
    # Messages of sympy or antlr about a model's LaTeX would break the progress bars of the parent.
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
            try:
                if name not in graders:
                    graders[name] = _load(name, settings)
                verdict = _grade(graders[name], task, settings.get(name, {}), timeout_seconds, memory_mib)
            except InputError as error:
                verdict = Verdict(False, VERIFIER_ERROR, str(error))
            connection.send(verdict)


def _load(name: str, settings: Settings) -> Kind:
    """Load a kind and use it once, so that no verdict is charged for loading.

    Raises:
        InputError: the settings name something that cannot be used, or the kind needs a package that is missing.
    """
    signal.setitimer(signal.ITIMER_PROF, _LOAD_SECONDS)
    try:
        kind = load_kind(name)
        kind.check_answer("1", **settings.get(name, {}))
    except ImportError as error:
        raise InputError(f"[verify] kind: {name} cannot be loaded: {error}; install what is missing") from error
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return kind


def _grade(kind: Kind, task: Task, keywords: Mapping[str, Any], timeout_seconds: float, memory_mib: int) -> Verdict:
    """Grade a task. If it exceeds a limit, this process ends."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform == "linux":
        with open("/proc/self/statm", encoding="ascii") as statm:
            in_use = int(statm.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (in_use + memory_mib * 2**20, hard))
    signal.setitimer(signal.ITIMER_PROF, timeout_seconds)
    try:
        if task.response is None:
            verdict = kind.check_answer(task.answer, question=task.question, **keywords)
        else:
            verdict = kind.grade(task.answer, task.response, question=task.question, **keywords)
        return _storable(verdict)
    except MemoryError:
        os._exit(_MEMORY_EXIT_CODE)  # the memory may be too fragmented for further gradings
    except RecursionError:  # nested too deeply for the grader
        return Verdict(False, UNPARSED)
    except Exception as error:
        return _storable(Verdict(False, VERIFIER_ERROR, f"{type(error).__name__}: {error}"))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))  # receiving the next task is not limited


def _storable(verdict: Verdict) -> Verdict:
    """The verdict with texts that files can hold: no halves of surrogate pairs, nor the megabytes of a model's box."""
    extracted = None if verdict.extracted is None else _plain(verdict.extracted)
    return dataclasses.replace(verdict, reason=_plain(verdict.reason), extracted=extracted)


def _plain(text: str) -> str:
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= _MAX_EXTRACTED_CHARACTERS else f"{text:.{_MAX_EXTRACTED_CHARACTERS}}…"
