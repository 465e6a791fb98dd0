"""When should training stop before its end? At SIGTERM, or after a set time: then it checkpoints, to go on later.

The driver asks, through a file in the run's folder; worker 0 looks for it, and tells the others.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ossft_ray.common.durations import parse_duration
from ossft_ray.common.storage import Folder

_REQUEST = "stop-requested.json"


class StopRequest:
    """The driver's side: asks once, for one reason."""

    def __init__(self, folder: Folder, stop_after: str | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._clock = folder, clock
        self._deadline = None if stop_after is None else clock() + parse_duration(stop_after)
        self._reason: str | None = None
        if folder.exists(_REQUEST):  # of the run before
            folder.delete_file(_REQUEST)

    def ask(self, reason: str) -> None:
        if self._reason is None:
            self._reason = reason
            self._folder.write_json(_REQUEST, {"reason": reason})

    def poll(self) -> None:
        """Ask when the time is over."""
        if self._deadline is not None and self._clock() >= self._deadline:
            self.ask("train.stop_after is over")

    @property
    def reason(self) -> str | None:
        return self._reason

    def clear(self) -> None:
        if self._folder.exists(_REQUEST):
            self._folder.delete_file(_REQUEST)


def is_stop_requested(folder: Folder) -> bool:
    """The workers' side."""
    return folder.exists(_REQUEST)


@contextmanager
def at_sigterm(request: StopRequest) -> Iterator[None]:
    """SIGTERM asks to stop while this lasts; in the main thread only, which is where signals arrive."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(*_: Any) -> None:
        request.ask("SIGTERM")

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
