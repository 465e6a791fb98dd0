"""The window of problems, and who may begin a draw that may not be needed."""

import asyncio
from contextlib import ExitStack

import pytest

from ossft_ray.engines.in_flight import InFlight


def test_no_more_problems_than_the_window_holds_and_in_their_order() -> None:
    async def run() -> list[int]:
        in_flight, begun, at_once, most = InFlight(num_problems=2), [], 0, 0

        async def work(number: int) -> None:
            nonlocal at_once, most
            async with in_flight.problem():
                begun.append(number)
                at_once += 1
                most = max(most, at_once)
                await asyncio.sleep(0)
                at_once -= 1

        await asyncio.gather(*map(work, range(5)))
        assert most == 2
        return begun

    assert asyncio.run(run()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("num_requests, has_room", [(0, True), (2, True), (3, False), (5, False)])
def test_there_is_room_below_so_many_requests(num_requests: int, has_room: bool) -> None:
    async def run() -> bool:
        in_flight = InFlight(num_problems=9, spare_below=3)
        with ExitStack() as requests:
            for _ in range(num_requests):
                requests.enter_context(in_flight.request())
            asked = asyncio.ensure_future(in_flight.room())
            for _ in range(3):
                await asyncio.sleep(0)
            given = asked.done()
        await asked  # all requests have ended, so nothing waits for ever
        return given

    assert asyncio.run(run()) == has_room
