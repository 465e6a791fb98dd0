"""The window of problems, and the spare capacity in which early draws may begin."""

import asyncio
from contextlib import ExitStack

import pytest

from ossft_ray.engines.in_flight import InFlight, spare_below


def test_problems_enter_the_window_in_order_up_to_its_size() -> None:
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


@pytest.mark.parametrize("num_requests, is_spare", [(0, True), (2, True), (3, False), (5, False)])
def test_capacity_is_spare_below_the_request_limit(num_requests: int, is_spare: bool) -> None:
    async def run() -> bool:
        in_flight = InFlight(num_problems=9, spare_below=3)
        with ExitStack() as requests:
            for _ in range(num_requests):
                requests.enter_context(in_flight.request())
            asked = asyncio.ensure_future(in_flight.spare_capacity())
            for _ in range(3):
                await asyncio.sleep(0)
            given = asked.done()
        await asked  # after the last request there is capacity
        return given

    assert asyncio.run(run()) == is_spare


def test_only_the_time_with_requests_counts_as_sampling(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    in_flight = InFlight(num_problems=9)
    clock[0] = 10.0  # the engine loads
    with in_flight.sampling():
        clock[0] = 12.0
        with in_flight.sampling():
            clock[0] = 15.0
            assert in_flight.sampled_seconds == 5.0
        clock[0] = 16.0
    clock[0] = 90.0  # verdicts are awaited
    with in_flight.sampling():
        clock[0] = 91.0
    assert in_flight.sampled_seconds == 7.0


@pytest.mark.parametrize("num_gpus, limit", [(0, 16), (0.5, 128), (4, 128)])
def test_a_gpu_has_spare_capacity_for_more(num_gpus: float, limit: int) -> None:
    assert spare_below(num_gpus) == limit
