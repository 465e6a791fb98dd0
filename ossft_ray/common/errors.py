"""The ways a command ends early: unusable input (exit code 2), a failed job (1), or a requested stop (130)."""

import errno
import re
import signal
import socket
import threading
from functools import cache

_MAX_SENTENCE = 300  # characters
# What vLLM and Ray write before each line of a log: "(EngineCore pid=7) ERROR 11-26 23:46:22 [core.py:733] "
_LOG_PREFIX = re.compile(r"^(?:\([^()]*pid=\d+[^()]*\) ?)*(?:[A-Z]+ \d\d-\d\d [\d:]+ \[[^\]]*\] ?)?")
_RAISED = re.compile(r"(?:[\w.]+\.)?(\w*(?:Error|Exception)): (.+)")
_FAULTS = re.compile(r"\b\d+ validation errors? for \w+$")
_POINTER = re.compile("root cause above|initialization failed|see stack trace|EngineCore encountered an issue", re.I)
_FULL = (errno.ENOSPC, errno.EDQUOT)


class InputError(Exception):
    """Bad usage, config or input. The message is one line: what, where, how to fix it."""


class Faults(InputError):
    """Several faults of an experiment, each worded like an InputError; the message quotes the first."""

    def __init__(self, message: str, faults: list[str] | None = None) -> None:
        super().__init__(message)  # the only argument, so that it can be copied
        self.faults = [message] if faults is None else faults

    @classmethod
    def of(cls, faults: list[str]) -> "Faults":
        return cls(faults[0] + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""), faults)


class JobError(Exception):
    """The job failed. The message is one line: what happened, where the log is, how to resume."""


class Stopped(Exception):
    """The job was asked to stop and can be resumed. The message is one line: why, where, how to resume."""


@cache
def _signals() -> tuple[socket.socket, socket.socket]:
    """A pair of sockets: the first yields the number of each arrived signal as a byte, Python writes to the second."""
    read, written = socket.socketpair()
    read.setblocking(False)
    written.setblocking(False)
    return read, written


def remember_interrupts() -> None:
    """From now on, remember each Ctrl-C as well as raising KeyboardInterrupt for it.

    Python drops an exception that a signal raises inside a callback, such as an import's or a finalizer's. Ray briefly
    installs its own handler, and drops a Ctrl-C if another error occurs then. So we read the signal's number from a
    socket, to which Python writes it whatever the handler does.
    """
    _read_signals()
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored
        signal.set_wakeup_fd(_signals()[1].fileno(), warn_on_full_buffer=False)


def raise_if_interrupted() -> None:
    """Raise KeyboardInterrupt if a Ctrl-C came since `remember_interrupts`, or since the last call."""
    if signal.SIGINT in _read_signals():
        raise KeyboardInterrupt


def _read_signals() -> bytes:
    try:
        return _signals()[0].recv(4096)
    except BlockingIOError:
        return b""


def brief(error: BaseException) -> str:
    """An error in one line: the first line of its message, or its type if it has none.

    For a failed read or write this is the file and the reason, and for a full disk also how to fix it.

    >>> brief(ValueError("no such key\\nTraceback ...")), brief(KeyError())
    ('no such key', 'KeyError')
    """
    message = next(iter(_lines(error)), type(error).__name__)
    if not isinstance(error, OSError):
        return message
    where = f"{error.filename}: " if error.filename else ""
    if error.errno in _FULL or any(f"errno {number}]" in str(error) for number in _FULL):  # the latter is pyarrow's
        return f"{where}no space is left on the device; free some"
    return where + (error.strerror or message)


def root_cause(error: BaseException) -> str:
    """The sentence that says what is wrong, in one line, from an error that may carry another process's traceback.

    >>> root_cause(RuntimeError("ray::work()\\n  File x, line 1\\nValueError: 4 heads\\nSee the log"))
    'ValueError: 4 heads'
    """
    return telling_sentence(str(error)) or brief(error)


def telling_sentence(text: str) -> str | None:
    """What is wrong, according to a traceback or a log; None if none of its lines names an exception.

    The last exception counts, unless it only points to an earlier one.
    """
    lines = [_LOG_PREFIX.sub("", line).rstrip() for line in text.splitlines()]
    found = None
    for number, line in enumerate(lines):
        if _FAULTS.search(line):
            found = _shortened(_fault(lines[number + 1 :])) or found
        elif (raised := _RAISED.match(line)) and not _POINTER.search(line) and not _FAULTS.search(raised[2]):
            found = _shortened(f"{raised[1]}: {raised[2]}")
    return found


def _fault(lines: list[str]) -> str:
    """The first of the faults that pydantic lists, with its key if it has one."""
    for key, line in zip(["", *lines], lines, strict=False):
        if " [type=" in line:
            fault = (
                line.partition(" [type=")[0].strip().removeprefix("Value error, ").removeprefix("Assertion failed, ")
            )
            return f"{key}: {fault}" if key and not key.startswith(" ") else fault
    return ""


def _shortened(sentence: str) -> str:
    sentence = sentence.removesuffix(".")
    return sentence if len(sentence) <= _MAX_SENTENCE else sentence[:_MAX_SENTENCE].rpartition(" ")[0] + " ..."


def _lines(error: BaseException) -> list[str]:
    return [line.strip() for line in str(error).splitlines() if line.strip()]
