"""How a command ends early: input that the user can mend (exit code 2), a job that failed (1), or was stopped (130)."""

import errno


class InputError(Exception):
    """Bad usage, config or input. The message is one line: what, where, how to mend it."""


class JobError(Exception):
    """The job itself failed. The message is one line: what happened, where the log is, how to go on."""


class Stopped(Exception):
    """The job was asked to stop, and can be gone on with. The message is one line: why, where, how to go on."""


def storage_failure(error: OSError) -> str:
    """A failed read or write in one clause: what, and how to mend it where that is known."""
    where = f"{error.filename}: " if error.filename else ""
    number = error.errno
    if number is None and "errno" in str(error):  # pyarrow puts it into the text
        number = next((n for n in (errno.ENOSPC, errno.EDQUOT, errno.ENOENT) if f"errno {n}]" in str(error)), None)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}no space is left on the device; free some"
    what = error.strerror or str(error).splitlines()[0]
    return f"{where}{what}"
