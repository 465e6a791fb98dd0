"""When should training stop before its end? At SIGTERM, or after a set time: then it checkpoints, to go on later.

The driver asks, through a file in the run's folder; worker 0 looks for it, and tells the others.
"""

import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ossft_ray.storage import Folder

_REQUEST = "stop-requested.json"
_SECONDS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}


def parse_duration(text: str) -> float:
    """Seconds. Raises ValueError for what is no duration.

    >>> parse_duration("3h45m"), parse_duration("90s")
    (13500.0, 90.0)
    """
    parts = re.findall(r"(\d+)([dhms])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"not a duration such as 3h45m, 90m or 30s: {text}")
    return float(sum(int(number) * _SECONDS[unit] for number, unit in parts))


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
