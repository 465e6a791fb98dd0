"""The ways a command ends early: unusable input (exit code 2), a failed job (1), or a requested stop (130)."""

import errno

_FULL = (errno.ENOSPC, errno.EDQUOT)


class InputError(Exception):
    """Bad usage, config or input. The message is one line: what, where, how to fix it."""


class Faults(InputError):
    """Several faults of an experiment, each a message like an InputError's; the message is the first one."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__(faults[0] + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""))
        self.faults = faults


class JobError(Exception):
    """The job failed. The message is one line: what happened, where the log is, how to resume."""


class Stopped(Exception):
    """The job was asked to stop and can be resumed. The message is one line: why, where, how to resume."""


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
    """The cause of an error in another process, in one line: the last line of the traceback in its message."""
    return next(reversed(_lines(error)), type(error).__name__)


def _lines(error: BaseException) -> list[str]:
    return [line.strip() for line in str(error).splitlines() if line.strip()]
