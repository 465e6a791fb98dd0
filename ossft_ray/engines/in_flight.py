"""What does one policy work on at once? A window of problems, and room for draws that may not be needed.

Enough problems keep the engine's batch full while verdicts are awaited. When few requests are left, the engine takes
more at next to no cost, so later draws of the problems at hand may begin early.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from ossft_ray.config import Experiment

SPARE_BELOW = 16  # requests in flight: an engine with fewer takes more at next to no cost


class InFlight:
    """The problems and requests of one policy. Use it inside one running asyncio loop."""

    def __init__(self, num_problems: int, spare_below: int = SPARE_BELOW) -> None:
        self._window = asyncio.Semaphore(num_problems)
        self._spare_below = spare_below
        self.num_requests = 0
        self._awaiting_room: dict[asyncio.Future[None], None] = {}  # in the order in which they came

    @asynccontextmanager
    async def problem(self) -> AsyncIterator[None]:
        """Held by a problem while it is worked on; problems get it in the order in which they come."""
        async with self._window:
            yield

    @contextmanager
    def request(self) -> Iterator[None]:
        """Held by a request to the engine."""
        self.num_requests += 1
        try:
            yield
        finally:
            self.num_requests -= 1
            self._give_room()

    async def room(self) -> None:
        """Return when the engine has so little to do that a draw which may not be needed costs next to nothing."""
        await asyncio.sleep(0)  # what was begun just now counts
        if self.num_requests >= self._spare_below:
            turn = asyncio.get_running_loop().create_future()
            self._awaiting_room[turn] = None
            try:
                await turn
            finally:
                self._awaiting_room.pop(turn, None)

    def _give_room(self) -> None:
        if self.num_requests < self._spare_below:
            waiting = (turn for turn in self._awaiting_room if not turn.done())
            if (first := next(waiting, None)) is not None:
                first.set_result(None)


MAX_SEQUENCES = 1024  # in vLLM's batch, where [policy.engine] max_num_seqs does not say


def problems_in_flight(experiment: Experiment) -> int:
    """How many problems one policy works on at once: enough that its batch stays full while verdicts are awaited."""
    setting = experiment.resources.problems_in_flight
    if setting != "auto":
        return setting
    return int(experiment.policy.engine.get("max_num_seqs") or MAX_SEQUENCES) * 5 // 4
