"""The driver's request to stop training early, at SIGTERM or after a set time; training can resume later."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ossft_ray.common.durations import parse_duration


class StopRequest:
    """Due once SIGTERM has arrived or `stop_after` is over."""

    def __init__(self, stop_after: str | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._deadline = math.inf if stop_after is None else clock() + parse_duration(stop_after)
        self._got_sigterm = threading.Event()

    @property
    def is_due(self) -> bool:
        return self._got_sigterm.is_set() or self._clock() >= self._deadline

    @contextmanager
    def at_sigterm(self) -> Iterator[None]:
        """Let SIGTERM make the request due; in the main thread only, where signals arrive."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, lambda *_: self._got_sigterm.set())
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
