"""The limits on processor time, memory and sleep: every response gets a verdict, and the next one is graded."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ossft_ray.config import Verify
from ossft_ray.verification import VerifierPool
from tests.verification.pools import CORRECT, ENDLESS, RIGHT, ask, kill_workers, scripted_pool, submit
from tests.verification.scripted_grader import num_begun

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def pool() -> Iterator[VerifierPool]:
    with VerifierPool(Verify(timeout_seconds=1.0, num_workers=2, memory_mib=64)) as pool:
        pool._patience_seconds = 1e6  # only the limit on processor time ends a bomb
        assert list(pool.map([RIGHT])) == [CORRECT]
        yield pool


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (ENDLESS, "timeout"),
        (r"\boxed{5}" * 1_000_000, "memory"),
        (r"\boxed{9^{9^{9^{9}}}}", "too_complex"),
    ],
)
def test_a_bomb_gets_a_verdict_and_the_next_response_is_graded(pool: VerifierPool, response: str, reason: str) -> None:
    bomb, after = pool.map([("5", response), RIGHT])
    assert (bomb.correct, bomb.reason, after) == (False, reason, CORRECT)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_sleeping_worker_is_killed(tmp_path: Path, num_workers: int) -> None:
    log = str(tmp_path / "log")
    with scripted_pool(0.1, num_workers) as pool:
        reasons = ask(pool, "verify", [(log, "a ok"), (log, "b sleep"), (log, "c ok")])
        assert reasons == ["correct", "timeout", "correct"]
        assert (pool.schedule.timeouts, pool.schedule.retries) == (1, 1)


def test_a_slow_worker_on_a_busy_machine_is_not_killed(tmp_path: Path) -> None:
    """A worker that gets a hundredth of a processor is slow, not asleep."""
    log = str(tmp_path / "log")
    with scripted_pool(timeout_seconds=5.0, num_workers=1) as pool:
        pool._patience_seconds = 1.0
        slow = submit(pool, log, "a naps")
        time.sleep(1.5)
        assert num_begun(log, "a") == 1 and not slow.done()
        assert slow.result(timeout=60).reason == "correct"
        assert pool.schedule.retries == 0


def test_a_stopped_worker_is_replaced(tmp_path: Path) -> None:
    """SIGSTOP, and a response too large for the pipe of a process that does not read."""
    log = str(tmp_path / "log")
    with scripted_pool(timeout_seconds=0.2, num_workers=1) as pool:
        assert ask(pool, "verify", [(log, "a ok")]) == ["correct"]
        kill_workers(pool, signal.SIGSTOP)
        assert ask(pool, "verify", [(log, f"b ok {'x' * 3_000_000}")]) == ["correct"]
        assert (pool.schedule.timeouts, pool.schedule.retries) == (0, 1)
