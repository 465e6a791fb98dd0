"""Retries: a timeout is graded again alone, a lost response up to twice, and retries do not stop the others."""

import asyncio
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ossft_ray.verification import Verdict, VerifierPool
from tests.verification.pools import LIMIT_SECONDS, ask, scripted_pool, submit
from tests.verification.scripted_grader import events, num_begun

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def shared_pool() -> Iterator[VerifierPool]:
    with scripted_pool() as pool:
        yield pool


def intervals(log: str) -> dict[str, list[tuple[float, float]]]:
    """When each response was graded: (begin, end) per try. A try without an end ended at its limit, or later."""
    found: dict[str, list[tuple[float, float]]] = {}
    for event, name, _, seconds in events(log):
        if event == "begin":
            found.setdefault(name, []).append((seconds, seconds + LIMIT_SECONDS))
        else:
            found[name][-1] = (found[name][-1][0], seconds)
    return found


@pytest.mark.parametrize("method", ["verify", "map"])
@pytest.mark.parametrize(
    "action, reason, num_tries, timeouts, retries",
    [
        ("ok", "correct", 1, 0, 0),
        ("bomb_once", "correct", 2, 0, 1),
        ("bomb", "timeout", 2, 1, 1),
        ("memory", "memory", 1, 0, 0),
        ("dies1", "correct", 2, 0, 1),
        ("dies2", "correct", 3, 0, 2),
        ("dies9", "crashed", 3, 0, 2),
    ],
)
def test_which_responses_are_graded_again(
    shared_pool: VerifierPool,
    tmp_path: Path,
    method: str,
    action: str,
    reason: str,
    num_tries: int,
    timeouts: int,
    retries: int,
) -> None:
    log, schedule = str(tmp_path / "log"), shared_pool.schedule
    timeouts_before, retries_before = schedule.timeouts, schedule.retries
    reasons = ask(shared_pool, method, [(log, "a ok"), (log, f"b {action}"), (log, "c ok")])
    assert reasons == ["correct", reason, "correct"]
    assert (schedule.timeouts - timeouts_before, schedule.retries - retries_before) == (timeouts, retries)
    assert num_begun(log, "b") == num_tries
    assert num_begun(log, "a") + num_begun(log, "c") == 2


@pytest.mark.parametrize("method", ["verify", "map"])
def test_a_timeout_is_graded_again_alone(tmp_path: Path, method: str) -> None:
    log = str(tmp_path / "log")
    bombs = {f"bomb{number}" for number in range(3)}
    pairs = [(log, f"bomb{number // 10} bomb_once" if number % 10 == 4 else f"ok{number} ok") for number in range(30)]
    with scripted_pool(num_workers=4) as pool:
        assert ask(pool, method, pairs) == ["correct"] * 30
        assert (pool.schedule.timeouts, pool.schedule.retries) == (0, 3)
    tries = intervals(log)
    ordinary = [span for name, spans in tries.items() for span in (spans[:1] if name in bombs else spans)]
    alone = [tries[name][1] for name in bombs]
    assert any(a[0] < b[0] < a[1] for a in ordinary for b in ordinary), "the others must be graded in parallel"
    for begin, end in alone:
        overlapping = [other for other in [*ordinary, *alone] if other[0] < end and begin < other[1]]
        assert overlapping == [(begin, end)]


def test_new_responses_wait_while_a_retry_runs(tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    with scripted_pool(num_workers=3) as pool:
        bomb = submit(pool, log, "bomb bomb")
        while num_begun(log, "bomb") < 2:
            time.sleep(0.01)
        others = [submit(pool, log, f"ok{number} ok") for number in range(3)]
        assert [future.result().reason for future in [bomb, *others]] == ["timeout", *["correct"] * 3]
    began = {name: seconds for event, name, _, seconds in events(log) if event == "begin"}
    assert all(began[f"ok{number}"] > began["bomb"] + LIMIT_SECONDS * 0.9 for number in range(3))


@pytest.mark.parametrize("num_workers", [1, 3])
def test_a_pile_of_bombs_does_not_stop_the_others(tmp_path: Path, num_workers: int) -> None:
    """After a retry, waiting responses run for as long as it took; then the next retry starts."""
    log = str(tmp_path / "log")
    pairs = [*[(log, f"bomb{number} bomb") for number in range(4)], *[(log, f"ok{number} ok") for number in range(40)]]
    with scripted_pool(num_workers=num_workers) as pool:
        assert ask(pool, "verify", pairs) == ["timeout"] * 4 + ["correct"] * 40
        assert (pool.schedule.timeouts, pool.schedule.retries) == (4, 4)
    tries = intervals(log)
    last_begin = max(spans[0][0] for name, spans in tries.items() if name.startswith("ok"))
    alone = sorted(spans[1] for name, spans in tries.items() if name.startswith("bomb"))
    gaps = [(a[1], b[0]) for a, b in itertools.pairwise(alone) if b[0] < last_begin]
    assert all(begin - end > LIMIT_SECONDS / 2 for end, begin in gaps)
    assert len(gaps) >= 1, "the others finished before the second retry"


def test_cancelling_a_running_retry_lets_the_others_run(tmp_path: Path) -> None:
    log = str(tmp_path / "log")

    async def cancel_while_alone(pool: VerifierPool) -> list[Verdict]:
        bombs = [asyncio.create_task(pool.verify(log, f"bomb{number} bomb")) for number in range(2)]
        while num_begun(log, "bomb0") + num_begun(log, "bomb1") < 3:
            await asyncio.sleep(0.01)
        others = [asyncio.create_task(pool.verify(log, f"ok{number} ok")) for number in range(4)]
        for bomb in bombs:
            bomb.cancel()
        return await asyncio.gather(*others)

    with scripted_pool(timeout_seconds=1.0) as pool:
        verdicts = asyncio.run(asyncio.wait_for(cancel_while_alone(pool), 60))
        assert [verdict.reason for verdict in verdicts] == ["correct"] * 4
        assert (pool.schedule.timeouts, pool.schedule.retries) == (0, 2)


def test_cancelling_a_waiting_retry_lets_the_others_run_at_once(tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    with scripted_pool(timeout_seconds=1.0) as pool:
        sleeper, bomb = submit(pool, log, "sleeper sleep"), submit(pool, log, "bomb bomb")
        while pool.schedule.retries == 0:
            time.sleep(0.01)
        other = submit(pool, log, "ok ok")
        time.sleep(0.3)
        assert num_begun(log, "ok") == 0, "the retry is next, after the sleeper"
        bomb.cancel()
        assert other.result(timeout=8).reason == "correct"
        assert not sleeper.done()
