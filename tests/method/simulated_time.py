"""An event loop whose clock jumps to the next timer: waits take no time, and their order and length are exact."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any


class _JumpingClock(selectors.DefaultSelector):
    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everything waits and no timer runs"
        self.now += timeout
        return super().select(0)


def run(coroutine: Coroutine[Any, Any, Any]) -> tuple[Any, float]:
    """The coroutine's result, and the simulated seconds that it took."""
    clock = _JumpingClock()

    def new_loop() -> asyncio.AbstractEventLoop:
        loop = asyncio.SelectorEventLoop(clock)
        loop.time = lambda: clock.now  # type: ignore[method-assign]
        return loop

    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(coroutine), clock.now
