"""Separate Python's standard error from file descriptor 2, which C++ and child processes write to."""

import os
import sys
from contextlib import suppress


def separate_stderr() -> None:
    """Give Python's stderr its own descriptor, so that descriptor 2 can be diverted. A second call does nothing."""
    with suppress(OSError, ValueError):  # a stream without a descriptor, as in a notebook, is apart anyway
        if sys.stderr.fileno() == 2:
            sys.stderr.flush()
            sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
