"""The two ways a command ends badly: input that the user can mend (exit code 2), and a job that failed (1)."""


class InputError(Exception):
    """Bad usage, config or input. The message is one line: what, where, how to mend it."""


class JobError(Exception):
    """The job itself failed. The message is one line: what happened, where the log is, how to go on."""
