"""The verifier pool returns verdicts in order, from any thread or event loop; calls can be cancelled, and it closes."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ossft_ray.config import Verify
from ossft_ray.verification import Task, Verdict, VerifierPool
from ossft_ray.verification.worker import Worker
from tests.verification.pools import CORRECT, ENDLESS, LIMIT_SECONDS, RIGHT, scripted_pool, submit
from tests.verification.scripted_grader import num_begun


@pytest.fixture(scope="module")
def pool() -> Iterator[VerifierPool]:
    with VerifierPool(Verify(timeout_seconds=1.0, num_workers=2, memory_mib=64)) as pool:
        pool._patience_seconds = 1e6  # only the limit on processor time ends a bomb
        assert list(pool.map([RIGHT])) == [CORRECT]
        yield pool


def test_warming_up_starts_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    ready = threading.Event()

    class WatchedWorker(Worker):
        def wait_until_ready(self) -> bool:
            is_ready = super().wait_until_ready()
            ready.set()
            return is_ready

    monkeypatch.setattr("ossft_ray.verification.pool.Worker", WatchedWorker)
    with VerifierPool(Verify(num_workers=1)) as pool:
        pool.warm_up()
        assert ready.wait(60)


def test_map_keeps_the_order_and_reads_a_bounded_number_of_pairs_ahead(pool: VerifierPool) -> None:
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


def test_map_each_yields_items_with_any_number_of_tasks(pool: VerifierPool) -> None:
    items = [0, 2, 1, 0, 0, 3, *[0] * 100, 1, 0]
    graded = list(pool.map_each(items, lambda number: [Task("7", rf"\boxed{{{index}}}") for index in range(number)]))
    assert [(item, [verdict.extracted for verdict in verdicts]) for item, verdicts in graded] == [
        (number, [str(index) for index in range(number)]) for number in items
    ]


def test_map_each_cancels_its_tasks_when_it_is_closed(tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    with scripted_pool(timeout_seconds=60.0, num_workers=1) as pool:
        verdicts = pool.map([(log, "a ok"), (log, "b bomb"), (log, "c ok")] * 30)
        assert next(verdicts).correct
        verdicts.close()  # type: ignore[attr-defined]
        assert submit(pool, log, "d ok").result(timeout=30).correct
    assert num_begun(log, "c") == 0


@pytest.mark.thorough
def test_asyncio_gets_many_verdicts_at_once(pool: VerifierPool) -> None:
    async def verify_all() -> list[Verdict]:
        responses = [ENDLESS if number == 3 else rf"\boxed{{{number}}}" for number in range(100)]
        return await asyncio.gather(*(pool.verify("5", response) for response in responses))

    verdicts = asyncio.run(verify_all())
    assert [number for number, verdict in enumerate(verdicts) if verdict.correct] == [5]
    assert [number for number, verdict in enumerate(verdicts) if verdict.reason == "timeout"] == [3]


def test_cancelling_a_call_frees_its_worker(pool: VerifierPool) -> None:
    async def cancel_then_verify() -> Verdict:
        for _ in range(4):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(pool.verify("5", ENDLESS), 0.2)
        return await pool.verify(*RIGHT)

    assert asyncio.run(cancel_then_verify()) == CORRECT


def test_closing_cancels_unfinished_calls_and_a_closed_pool_rejects_new_ones() -> None:
    async def close_while_waiting() -> None:
        with VerifierPool(Verify(timeout_seconds=60.0, num_workers=1)) as pool:
            waiting = [asyncio.create_task(pool.verify("5", ENDLESS)) for _ in range(3)]
            await asyncio.sleep(1)
            pool.close()
            results = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 10)
            assert all(isinstance(result, asyncio.CancelledError) for result in results)
            with pytest.raises(RuntimeError, match="closed"):
                await pool.verify(*RIGHT)

    asyncio.run(close_while_waiting())


@pytest.mark.thorough
@pytest.mark.parametrize("ending", ["close", "cancel"])
def test_a_worker_that_starts_too_late_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    """Its job was cancelled, or its pool closed, while it started."""
    starting = threading.Event()

    class SlowWorker(Worker):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            starting.set()
            time.sleep(0.5)

    monkeypatch.setattr("ossft_ray.verification.pool.Worker", SlowWorker)
    log = str(tmp_path / "log")
    with scripted_pool(timeout_seconds=60.0, num_workers=1) as pool:
        bomb = submit(pool, log, "a bomb")
        assert starting.wait(60)
        bomb.cancel() if ending == "cancel" else pool.close()
        if ending == "cancel":
            assert submit(pool, log, "b ok").result(timeout=30).reason == "correct"
    assert bomb.cancelled()
    assert num_begun(log, "a") == 0


@pytest.mark.parametrize("timeout_seconds", [LIMIT_SECONDS, 60.0], ids=["retry", "first try"])
def test_closing_ends_a_running_bomb(tmp_path: Path, timeout_seconds: float) -> None:
    log = str(tmp_path / "log")
    with scripted_pool(timeout_seconds) as pool:
        futures = [submit(pool, log, "a bomb"), submit(pool, log, "b bomb")]
        while num_begun(log, "a") + num_begun(log, "b") < (3 if timeout_seconds < 1 else 2):
            time.sleep(0.01)
        pool.close()
        assert all(future.cancelled() for future in futures)
        assert not any(thread.is_alive() for thread in pool._threads)


@pytest.mark.thorough
@pytest.mark.parametrize("ending", ["pass", "sys.exit(3)", "raise SystemExit"])
def test_a_pool_that_is_never_closed_does_not_keep_its_program_alive(ending: str) -> None:
    script = f"""
import sys
from ossft_ray.config import Verify
from ossft_ray.verification import Task, VerifierPool
pool = VerifierPool(Verify(timeout_seconds=60.0))
print(*(verdict.reason for verdict in pool.map([("5", r"\\boxed{{5}}")])))
pool._submit(Task("5", r"{ENDLESS}"))
{ending}
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("correct\n", "")
    assert done.returncode == (3 if "3" in ending else 0)
