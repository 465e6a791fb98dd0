"""How a command ends early: unusable input (exit code 2), a failed job (1), or a requested stop (130)."""

import errno


class InputError(Exception):
    """Bad usage, config or input. The message is one line: what, where, how to fix it."""


class JobError(Exception):
    """The job failed. The message is one line: what happened, where the log is, how to resume."""


class Stopped(Exception):
    """The job was asked to stop and can be resumed. The message is one line: why, where, how to resume."""


def brief(error: BaseException) -> str:
    """An error in one line: the first line of its message, or its type where it has none.

    A failed read or write is told as what and where, and a full disk with how to fix it.

    >>> brief(ValueError("no such key\\nTraceback ...")), brief(KeyError())
    ('no such key', 'KeyError')
    """
    if isinstance(error, OSError):
        return _storage_failure(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def root_cause(error: BaseException) -> str:
    """What went wrong in another process, in one line: the last line of the traceback that its message holds."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _storage_failure(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    number = error.errno
    if number is None and "errno" in str(error):  # pyarrow puts it into the text
        number = next((n for n in (errno.ENOSPC, errno.EDQUOT, errno.ENOENT) if f"errno {n}]" in str(error)), None)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}no space is left on the device; free some"
    return where + (error.strerror or next(iter(str(error).splitlines()), "") or type(error).__name__)
