"""A verdict always comes, in time, whatever a response holds; and no process outlives its parent."""

import asyncio
import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ossft_ray.common.errors import JobError
from ossft_ray.verification import Verdict, VerifierPool
from ossft_ray.verification.fork_server import FORK_SERVER
from ossft_ray.verification.worker import Worker
from tests.verification.scripted_grader import begins, events

ENDLESS = r"\boxed{\sum_{n=1}^{\infty} \frac{\sin(n^2)}{n^2+1}}"
RIGHT = ("5", r"\boxed{5}")
CORRECT = Verdict(True, "correct", "5")


@pytest.fixture(scope="module")
def pool() -> Iterator[VerifierPool]:
    with VerifierPool("math", timeout_seconds=1.0, num_workers=2, memory_limit_mib=64) as pool:
        pool._patience_seconds = 1e6  # what ends a bomb here is no wall clock
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
def test_a_bomb_gets_a_verdict_and_the_next_one_comes(pool: VerifierPool, response: str, reason: str) -> None:
    bomb, after = pool.map([("5", response), RIGHT])
    assert (bomb.correct, bomb.reason, after) == (False, reason, CORRECT)


def test_a_pool_that_is_warmed_up_has_a_worker_before_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    ready = threading.Event()

    class Watched(Worker):
        def wait_until_ready(self) -> None:
            super().wait_until_ready()
            ready.set()

    monkeypatch.setattr("ossft_ray.verification.pool.Worker", Watched)
    with VerifierPool("math", num_workers=1) as pool:
        pool.warm_up()
        assert ready.wait(60)


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
        responses = [ENDLESS if number == 3 else rf"\boxed{{{number}}}" for number in range(100)]
        return await asyncio.gather(*(pool.verify("5", response) for response in responses))

    verdicts = asyncio.run(verify_all())
    assert [number for number, verdict in enumerate(verdicts) if verdict.correct] == [5]
    assert [number for number, verdict in enumerate(verdicts) if verdict.reason == "timeout"] == [3]


def test_cancelling_frees_the_worker(pool: VerifierPool) -> None:
    async def cancel_then_verify() -> Verdict:
        for _ in range(4):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(pool.verify("5", ENDLESS), 0.2)
        return await pool.verify(*RIGHT)

    assert asyncio.run(cancel_then_verify()) == CORRECT


def test_a_worker_that_is_killed_is_replaced() -> None:
    with VerifierPool(timeout_seconds=60.0, num_workers=1) as pool:
        assert list(pool.map([RIGHT])) == [CORRECT]
        _kill_workers(pool)  # while idle
        time.sleep(0.5)
        assert list(pool.map([RIGHT])) == [CORRECT]
        assert pool.retries == 0

        async def killed_at_work() -> Verdict:
            verdict = asyncio.create_task(pool.verify("5", ENDLESS))
            for _ in range(3):
                await asyncio.sleep(2)
                _kill_workers(pool)
            return await verdict

        assert asyncio.run(killed_at_work()) == Verdict(False, "crashed")
        assert pool.retries == 2
        assert list(pool.map([RIGHT])) == [CORRECT]


def test_close_ends_what_waits_and_a_closed_pool_refuses() -> None:
    async def close_while_waiting() -> None:
        with VerifierPool(timeout_seconds=60.0, num_workers=1) as pool:
            waiting = [asyncio.create_task(pool.verify("5", ENDLESS)) for _ in range(3)]
            await asyncio.sleep(1)
            pool.close()
            results = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 10)
            assert all(isinstance(result, asyncio.CancelledError) for result in results)
            with pytest.raises(RuntimeError, match="closed"):
                await pool.verify(*RIGHT)

    asyncio.run(close_while_waiting())


# No `__name__` guard on purpose: workers must not run their parent's main module again.
PARENT = rf"""
import sys, time
from ossft_ray.verification import VerifierPool
pool = VerifierPool(timeout_seconds=4.0, num_workers=2)
print(*(verdict.reason for verdict in pool.map([("5", r"\boxed{{5}}")] * 2)), flush=True)
print(next(pool.map([("5", r"{ENDLESS}")])) if "busy" in sys.argv else time.sleep(600), flush=True)
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
    assert before
    for pid in before:
        os.kill(pid, signal.SIGINT)
    assert list(pool.map([RIGHT] * 4)) == [CORRECT] * 4
    assert set(before) <= set(_workers(pool))


LIMIT = 0.3


def scripted_pool(timeout_seconds: float = LIMIT, num_workers: int = 2) -> VerifierPool:
    settings = {"python": {"function": "scripted_grader:grade"}}
    return VerifierPool("python", timeout_seconds, num_workers, settings=settings)


@pytest.fixture(scope="module")
def scripted() -> Iterator[VerifierPool]:
    with scripted_pool() as pool:
        yield pool


def ask(pool: VerifierPool, way: str, pairs: list[tuple[str, str]]) -> list[str]:
    """The reasons of the verdicts, by `map` or `verify`."""

    async def verify_all() -> list[Verdict]:
        return await asyncio.gather(*(pool.verify(*pair) for pair in pairs))

    return [verdict.reason for verdict in (pool.map(pairs) if way == "map" else asyncio.run(verify_all()))]


def intervals(log: str) -> dict[str, list[tuple[float, float]]]:
    """When each response was graded, (begin, end) a try. A try without an end was ended at its limit, or later."""
    found: dict[str, list[tuple[float, float]]] = {}
    for event, name, _, seconds in events(log):
        if event == "begin":
            found.setdefault(name, []).append((seconds, seconds + LIMIT))
        else:
            found[name][-1] = (found[name][-1][0], seconds)
    return found


@pytest.mark.parametrize("way", ["verify", "map"])
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
def test_what_is_graded_again(
    scripted: VerifierPool,
    tmp_path: Path,
    way: str,
    action: str,
    reason: str,
    num_tries: int,
    timeouts: int,
    retries: int,
) -> None:
    log, timeouts_before, retries_before = str(tmp_path / "log"), scripted.timeouts, scripted.retries
    reasons = ask(scripted, way, [(log, "a ok"), (log, f"b {action}"), (log, "c ok")])
    assert reasons == ["correct", reason, "correct"]
    assert (scripted.timeouts - timeouts_before, scripted.retries - retries_before) == (timeouts, retries)
    assert begins(log, "b") == num_tries
    assert begins(log, "a") + begins(log, "c") == 2


@pytest.mark.parametrize("way", ["verify", "map"])
def test_a_timeout_is_graded_again_alone(tmp_path: Path, way: str) -> None:
    log = str(tmp_path / "log")
    bombs = {f"bomb{number}" for number in range(3)}
    pairs = [(log, f"bomb{number // 10} bomb_once" if number % 10 == 4 else f"ok{number} ok") for number in range(30)]
    with scripted_pool(num_workers=4) as pool:
        assert ask(pool, way, pairs) == ["correct"] * 30
        assert (pool.timeouts, pool.retries) == (0, 3)
    tries = intervals(log)
    ordinary = [span for name, spans in tries.items() for span in (spans[:1] if name in bombs else spans)]
    alone = [tries[name][1] for name in bombs]
    assert any(a[0] < b[0] < a[1] for a in ordinary for b in ordinary), "the others must be graded side by side"
    for begin, end in alone:
        beside = [other for other in [*ordinary, *alone] if other[0] < end and begin < other[1]]
        assert beside == [(begin, end)]


def test_what_comes_while_a_retry_is_graded_waits(tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    with scripted_pool(num_workers=3) as pool:
        bomb = pool._submit(log, "bomb bomb")
        while begins(log, "bomb") < 2:
            time.sleep(0.01)
        others = [pool._submit(log, f"ok{number} ok") for number in range(3)]
        assert [future.result().reason for future in [bomb, *others]] == ["timeout", *["correct"] * 3]
    began = {name: seconds for event, name, _, seconds in events(log) if event == "begin"}
    assert all(began[f"ok{number}"] > began["bomb"] + LIMIT * 0.9 for number in range(3))


@pytest.mark.parametrize("num_workers", [1, 3])
def test_a_pile_of_bombs_does_not_stop_the_others(tmp_path: Path, num_workers: int) -> None:
    """While others wait, they have as long as a retry took before the next."""
    log = str(tmp_path / "log")
    pairs = [*[(log, f"bomb{number} bomb") for number in range(4)], *[(log, f"ok{number} ok") for number in range(40)]]
    with scripted_pool(num_workers=num_workers) as pool:
        assert ask(pool, "verify", pairs) == ["timeout"] * 4 + ["correct"] * 40
        assert (pool.timeouts, pool.retries) == (4, 4)
    tries = intervals(log)
    last_begin = max(spans[0][0] for name, spans in tries.items() if name.startswith("ok"))
    alone = sorted(spans[1] for name, spans in tries.items() if name.startswith("bomb"))
    held_back = [(a[1], b[0]) for a, b in itertools.pairwise(alone) if b[0] < last_begin]
    assert all(begin - end > LIMIT / 2 for end, begin in held_back)
    assert len(held_back) >= 1, "the others were through before two retries came"


@pytest.mark.parametrize("num_workers", [1, 2])
def test_what_sleeps_is_ended_by_the_wall_clock(tmp_path: Path, num_workers: int) -> None:
    log = str(tmp_path / "log")
    with scripted_pool(0.1, num_workers) as pool:
        reasons = ask(pool, "verify", [(log, "a ok"), (log, "b sleep"), (log, "c ok")])
        assert reasons == ["correct", "timeout", "correct"]
        assert (pool.timeouts, pool.retries) == (1, 1)


def test_a_busy_machine_is_no_reason_to_end_a_verdict(tmp_path: Path) -> None:
    """A worker that gets a hundredth of a processor is slow, not asleep."""
    log = str(tmp_path / "log")
    with scripted_pool(timeout_seconds=5.0, num_workers=1) as pool:
        pool._patience_seconds = 1.0
        slow = pool._submit(log, "a naps")
        time.sleep(1.5)
        assert begins(log, "a") == 1 and not slow.done()
        assert slow.result(timeout=60).reason == "correct"
        assert pool.retries == 0


def test_cancelling_a_retry_lets_the_others_go_on(tmp_path: Path) -> None:
    log = str(tmp_path / "log")

    async def cancel_while_alone(pool: VerifierPool) -> list[Verdict]:
        bombs = [asyncio.create_task(pool.verify(log, f"bomb{number} bomb")) for number in range(2)]
        while begins(log, "bomb0") + begins(log, "bomb1") < 3:
            await asyncio.sleep(0.01)
        others = [asyncio.create_task(pool.verify(log, f"ok{number} ok")) for number in range(4)]
        for bomb in bombs:
            bomb.cancel()
        return await asyncio.gather(*others)

    with scripted_pool(timeout_seconds=1.0) as pool:
        verdicts = asyncio.run(asyncio.wait_for(cancel_while_alone(pool), 60))
        assert [verdict.reason for verdict in verdicts] == ["correct"] * 4
        assert (pool.timeouts, pool.retries) == (0, 2)


def test_cancelling_what_waits_for_its_retry_lets_the_others_go_on_at_once(tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    with scripted_pool(timeout_seconds=1.0) as pool:
        sleeper, bomb = pool._submit(log, "sleeper sleep"), pool._submit(log, "bomb bomb")
        while pool.retries == 0:
            time.sleep(0.01)
        other = pool._submit(log, "ok ok")
        time.sleep(0.3)
        assert begins(log, "ok") == 0, "the retry is next, when the sleeper has ended"
        bomb.cancel()
        assert other.result(timeout=8).reason == "correct"
        assert not sleeper.done()


@pytest.mark.parametrize("ending", ["close", "cancel"])
def test_a_worker_that_is_not_wanted_any_more_when_it_has_started_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    starting = threading.Event()

    class SlowWorker(Worker):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            starting.set()
            time.sleep(0.5)

    monkeypatch.setattr("ossft_ray.verification.pool.Worker", SlowWorker)
    log = str(tmp_path / "log")
    with scripted_pool(timeout_seconds=60.0, num_workers=1) as pool:
        bomb = pool._submit(log, "a bomb")
        assert starting.wait(60)
        bomb.cancel() if ending == "cancel" else pool.close()
        if ending == "cancel":
            assert pool._submit(log, "b ok").result(timeout=30).reason == "correct"
    assert bomb.cancelled()
    assert begins(log, "a") == 0


@pytest.mark.parametrize("timeout_seconds", [0.3, 60.0], ids=["alone", "first try"])
def test_close_ends_a_bomb_at_work(tmp_path: Path, timeout_seconds: float) -> None:
    log = str(tmp_path / "log")
    with scripted_pool(timeout_seconds) as pool:
        futures = [pool._submit(log, "a bomb"), pool._submit(log, "b bomb")]
        while begins(log, "a") + begins(log, "b") < (3 if timeout_seconds < 1 else 2):
            time.sleep(0.01)
        pool.close()
        assert all(future.cancelled() for future in futures)
        assert not any(thread.is_alive() for thread in pool._threads)


def test_workers_killed_at_random_change_no_verdict(tmp_path: Path) -> None:
    """`kill -9` a worker every few verdicts, at whatever it is doing: starting, reading, grading, answering."""
    rng, log = random.Random(0), str(tmp_path / "log")
    pairs = [(log, f"r{number} ok {'x' * rng.choice([0, 0, 500_000])}") for number in range(60)]
    with scripted_pool(timeout_seconds=60.0, num_workers=3) as pool:
        futures = [pool._submit(*pair) for pair in pairs]
        num_killed = 0
        while (num_done := sum(future.done() for future in futures)) < len(pairs):
            # So rarely that none is hit three times, and would count as `crashed`.
            if num_done >= 8 * (num_killed + 1) and (pids := _workers(pool)):
                time.sleep(rng.uniform(0, 0.1))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rng.choice(pids), signal.SIGKILL)
                num_killed += 1
            time.sleep(0.005)
        assert num_killed >= 3
        assert [future.result().reason for future in futures] == ["correct"] * len(pairs)
        assert pool.timeouts == 0


@pytest.mark.parametrize("is_reaped", [False, True], ids=["left", "reaped by someone else"])
def test_verdicts_come_when_the_fork_server_is_killed(tmp_path: Path, is_reaped: bool) -> None:
    log = str(tmp_path / "log")
    with scripted_pool(timeout_seconds=60.0) as pool:
        assert ask(pool, "verify", [(log, f"a{number} ok") for number in range(4)]) == ["correct"] * 4
        pid = FORK_SERVER.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        if is_reaped:
            os.waitpid(pid, 0)
        assert ask(pool, "verify", [(log, f"b{number} ok") for number in range(4)]) == ["correct"] * 4
        _kill_workers(pool)
        assert ask(pool, "map", [(log, f"c{number} ok") for number in range(4)]) == ["correct"] * 4
        assert FORK_SERVER.pid != pid


def test_a_worker_that_stands_still_is_replaced(tmp_path: Path) -> None:
    """SIGSTOP, and a response too large for the pipe of a process that does not read."""
    log = str(tmp_path / "log")
    with scripted_pool(timeout_seconds=0.2, num_workers=1) as pool:
        assert ask(pool, "verify", [(log, "a ok")]) == ["correct"]
        for pid in _workers(pool):
            os.kill(pid, signal.SIGSTOP)
        assert ask(pool, "verify", [(log, f"b ok {'x' * 3_000_000}")]) == ["correct"]
        assert (pool.timeouts, pool.retries) == (0, 1)


def test_no_verdict_without_workers_is_an_error_not_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ossft_ray.verification.pool._NUM_STARTS", 2)
    with VerifierPool("python", settings={"python": {"function": "dies_on_import:grade"}}) as pool:
        with pytest.raises(JobError, match="died 2 times while they started"):
            list(pool.map([RIGHT]))
        with pytest.raises(JobError, match="out of memory or processes"):
            asyncio.run(pool.verify(*RIGHT))


@pytest.mark.parametrize("ending", ["pass", "sys.exit(3)", "raise SystemExit"])
def test_a_pool_that_is_never_closed_does_not_keep_its_program(ending: str) -> None:
    script = f"""
import sys
from ossft_ray.verification import VerifierPool
pool = VerifierPool(timeout_seconds=60.0)
print(*(verdict.reason for verdict in pool.map([("5", r"\\boxed{{5}}")])))
pool._submit("5", r"{ENDLESS}")
{ending}
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("correct\n", "")
    assert done.returncode == (3 if "3" in ending else 0)


def _workers(pool: VerifierPool) -> list[int]:
    return sorted(int(worker.pid or 0) for worker in pool._workers)


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
