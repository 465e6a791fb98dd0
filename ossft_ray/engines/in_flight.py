"""The work that one policy has in flight: a window of problems, and early draws while the engine has spare capacity.

Enough problems keep the engine's batch full while verdicts are awaited. An engine with few requests serves more of them
at almost no cost, so later draws of the problems in flight may begin early.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from ossft_ray.config import Experiment

_SPARE_BELOW = {"CPU": 16, "GPU": 128}  # requests in flight: an engine with fewer takes more at almost no cost
MAX_SEQUENCES = 1024  # in vLLM's batch, unless [policy.engine] max_num_seqs is set


class InFlight:
    """The problems and requests of one policy. Use it inside one running asyncio loop."""

    def __init__(self, num_problems: int, spare_below: int = _SPARE_BELOW["CPU"]) -> None:
        self._window = asyncio.Semaphore(num_problems)
        self._spare_below = spare_below
        self.num_requests = 0
        self._num_sampling, self._sampling_since, self._sampled_seconds = 0, 0.0, 0.0
        self._waiting: dict[asyncio.Future[None], None] = {}  # for spare capacity, in order of arrival

    @asynccontextmanager
    async def problem(self) -> AsyncIterator[None]:
        """A place in the window, for the time that a problem is worked on; problems enter in order of arrival."""
        async with self._window:
            yield

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count a request to the engine for as long as it lasts."""
        self.num_requests += 1
        try:
            yield
        finally:
            self.num_requests -= 1
            self._wake_next()

    async def spare_capacity(self) -> None:
        """Wait until the engine has so few requests that an early draw, even an unneeded one, costs almost nothing."""
        await asyncio.sleep(0)  # so that requests which have just begun are counted
        if self.num_requests >= self._spare_below:
            turn = asyncio.get_running_loop().create_future()
            self._waiting[turn] = None
            try:
                await turn
            finally:
                self._waiting.pop(turn, None)

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Count the time in which the engine works on at least one request."""
        if not self._num_sampling:
            self._sampling_since = time.monotonic()
        self._num_sampling += 1
        try:
            yield
        finally:
            self._num_sampling -= 1
            if not self._num_sampling:
                self._sampled_seconds += time.monotonic() - self._sampling_since

    @property
    def sampled_seconds(self) -> float:
        """How long the engine has worked on requests so far; pauses between them do not count."""
        under_way = time.monotonic() - self._sampling_since if self._num_sampling else 0.0
        return self._sampled_seconds + under_way

    def _wake_next(self) -> None:
        if self.num_requests < self._spare_below:
            pending = (turn for turn in self._waiting if not turn.done())
            if (first := next(pending, None)) is not None:
                first.set_result(None)


def problems_in_flight(experiment: Experiment) -> int:
    """How many problems one policy works on at once: enough that its batch stays full while verdicts are awaited."""
    setting = experiment.resources.problems_in_flight
    if setting != "auto":
        return setting
    return int(experiment.policy.engine.get("max_num_seqs") or MAX_SEQUENCES) * 5 // 4


def spare_below(num_gpus: float) -> int:
    """The number of requests in flight below which an engine with this many GPUs has spare capacity."""
    return _SPARE_BELOW["GPU" if num_gpus else "CPU"]
