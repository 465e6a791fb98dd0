"""A verdict always comes, in time, whatever a response holds; and no process outlives its parent."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ossft_ray.errors import InputError
from ossft_ray.verification import Verdict, VerifierPool

TOWER = r"\boxed{9^{9^{9^{9}}}}"
RIGHT = ("5", r"\boxed{5}")
CORRECT = Verdict(True, "correct", "5")


@pytest.fixture(scope="module")
def pool() -> Iterator[VerifierPool]:
    with VerifierPool("math", timeout_seconds=1.0, num_workers=2, memory_limit_mib=64) as pool:
        assert list(pool.map([RIGHT])) == [CORRECT]
        yield pool


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (TOWER, "timeout"),
        (r"\boxed{10000000!}", "timeout"),
        (rf"\boxed{{{'7' * 3_000_000}}}", "memory"),
        (rf"\boxed{{{'{' * 20_000}5{'}' * 20_000}}}", "timeout"),
    ],
)
def test_a_bomb_gets_a_verdict_and_the_next_one_comes(pool: VerifierPool, response: str, reason: str) -> None:
    started = time.monotonic()
    bomb, after = pool.map([("5", response), RIGHT])
    assert (bomb.correct, bomb.reason, after) == (False, reason, CORRECT)
    assert time.monotonic() - started < 9  # the wall clock's limit, behind the others, would take 11


def test_map_keeps_the_order_and_reads_ahead_only_so_far(pool: VerifierPool) -> None:
    num_read = 0

    def pairs() -> Iterator[tuple[str, str]]:
        nonlocal num_read
        for number in range(200):
            num_read += 1
            yield "7", rf"\boxed{{{number}}}"

    verdicts = pool.map(pairs())
    first = next(verdicts)
    assert num_read < 200
    assert [verdict.extracted for verdict in (first, *verdicts)] == [str(number) for number in range(200)]


def test_many_verdicts_at_once_from_asyncio(pool: VerifierPool) -> None:
    async def verify_all() -> list[Verdict]:
        responses = [TOWER if number == 3 else rf"\boxed{{{number}}}" for number in range(100)]
        return await asyncio.gather(*(pool.verify("5", response) for response in responses))

    verdicts = asyncio.run(verify_all())
    assert [number for number, verdict in enumerate(verdicts) if verdict.correct] == [5]
    assert [number for number, verdict in enumerate(verdicts) if verdict.reason == "timeout"] == [3]


def test_cancelling_frees_the_worker(pool: VerifierPool) -> None:
    async def cancel_then_verify() -> Verdict:
        for _ in range(4):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(pool.verify("5", TOWER), 0.2)
        return await pool.verify(*RIGHT)

    assert asyncio.run(cancel_then_verify()) == CORRECT


def test_a_worker_that_is_killed_is_replaced() -> None:
    with VerifierPool(timeout_seconds=20.0, num_workers=1) as pool:
        assert list(pool.map([RIGHT])) == [CORRECT]
        _kill_workers(pool)  # while idle
        time.sleep(0.5)
        assert list(pool.map([RIGHT])) == [CORRECT]

        async def killed_at_work() -> Verdict:
            verdict = asyncio.create_task(pool.verify("5", TOWER))
            await asyncio.sleep(1)
            _kill_workers(pool)
            return await verdict

        assert asyncio.run(killed_at_work()) == Verdict(False, "memory")  # SIGKILL: what the system does without memory
        assert list(pool.map([RIGHT])) == [CORRECT]


def test_close_ends_what_waits_and_a_closed_pool_refuses() -> None:
    async def close_while_waiting() -> None:
        with VerifierPool(timeout_seconds=60.0, num_workers=1) as pool:
            waiting = [asyncio.create_task(pool.verify("5", TOWER)) for _ in range(3)]
            await asyncio.sleep(1)
            pool.close()
            results = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 10)
            assert all(isinstance(result, asyncio.CancelledError) for result in results)
            with pytest.raises(RuntimeError, match="closed"):
                await pool.verify(*RIGHT)

    asyncio.run(close_while_waiting())


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(InputError, match="kinds: math"):
        VerifierPool("maths")


# No `__name__` guard on purpose: workers must not run their parent's main module again.
PARENT = rf"""
import sys, time
from ossft_ray.verification import VerifierPool
pool = VerifierPool(timeout_seconds=4.0, num_workers=2)
print(*(verdict.reason for verdict in pool.map([("5", r"\boxed{{5}}")] * 2)), flush=True)
print(next(pool.map([("5", r"{TOWER}")])) if "busy" in sys.argv else time.sleep(600), flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("state", ["idle", "busy"])
def test_workers_end_when_their_parent_is_killed(tmp_path: Path, state: str) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT, encoding="utf-8")
    marker = {"OSSFT_TEST_MARKER": f"{os.getpid()}-{state}"}  # inherited by all that the parent starts
    with subprocess.Popen([sys.executable, script, state], stdout=subprocess.PIPE, env=os.environ | marker) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"correct correct\n"
        time.sleep(1)
        assert len(_processes_with(marker)) >= 4  # the parent, the fork server, two workers
        parent.kill()
    deadline = time.monotonic() + 30
    while (left := _processes_with(marker)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_ignore_ctrl_c(pool: VerifierPool) -> None:
    before = _workers(pool)
    for pid in before:
        os.kill(pid, signal.SIGINT)
    assert list(pool.map([RIGHT] * 4)) == [CORRECT] * 4
    assert _workers(pool) == before


def _workers(pool: VerifierPool) -> list[int]:
    return sorted(pool._pool._pool_manager.worker_manager.workers)


def _kill_workers(pool: VerifierPool) -> None:
    for pid in _workers(pool):
        os.kill(pid, signal.SIGKILL)


def _processes_with(variables: dict[str, str]) -> list[int]:
    wanted = {f"{name}={value}".encode() for name, value in variables.items()}
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if wanted <= set(environment.read_bytes().split(b"\0")):
                found.append(int(environment.parent.name))
        except OSError:  # ended meanwhile, or another user's
            continue
    return found
