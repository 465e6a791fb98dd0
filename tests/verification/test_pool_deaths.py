"""Deaths: killing workers or the fork server at any time changes no verdict, and no process outlives its parent."""

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ossft_ray.common.errors import JobError
from ossft_ray.config import Verify, VerifyPython
from ossft_ray.verification import Verdict, VerifierPool
from ossft_ray.verification.fork_server import FORK_SERVER
from tests.verification.pools import CORRECT, ENDLESS, RIGHT, ask, kill_workers, scripted_pool, submit

pytestmark = pytest.mark.thorough


def test_a_killed_worker_is_replaced() -> None:
    with VerifierPool(Verify(timeout_seconds=60.0, num_workers=1)) as pool:
        assert list(pool.map([RIGHT])) == [CORRECT]
        kill_workers(pool)  # while idle
        time.sleep(0.5)
        assert list(pool.map([RIGHT])) == [CORRECT]
        assert pool.schedule.retries == 0

        async def verify_while_workers_are_killed() -> Verdict:
            verdict = asyncio.create_task(pool.verify("5", ENDLESS))
            for _ in range(3):
                await asyncio.sleep(2)
                kill_workers(pool)
            return await verdict

        assert asyncio.run(verify_while_workers_are_killed()) == Verdict(False, "crashed")
        assert pool.schedule.retries == 2
        assert list(pool.map([RIGHT])) == [CORRECT]


def test_workers_killed_at_random_change_no_verdict(tmp_path: Path) -> None:
    """`kill -9` every few verdicts, while a worker starts, reads, grades or answers."""
    rng, log = random.Random(0), str(tmp_path / "log")
    pairs = [(log, f"r{number} ok {'x' * rng.choice([0, 0, 500_000])}") for number in range(60)]
    with scripted_pool(timeout_seconds=60.0, num_workers=3) as pool:
        futures = [submit(pool, *pair) for pair in pairs]
        num_killed = 0
        while (num_done := sum(future.done() for future in futures)) < len(pairs):
            # Kills are so rare that no response loses three workers, which would make it `crashed`.
            if num_done >= 8 * (num_killed + 1) and (pids := pool.worker_pids):
                time.sleep(rng.uniform(0, 0.1))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rng.choice(pids), signal.SIGKILL)
                num_killed += 1
            time.sleep(0.005)
        assert num_killed >= 3
        assert [future.result().reason for future in futures] == ["correct"] * len(pairs)
        assert pool.schedule.timeouts == 0


@pytest.mark.parametrize("is_reaped", [False, True], ids=["zombie", "reaped by someone else"])
def test_a_killed_fork_server_is_replaced(tmp_path: Path, is_reaped: bool) -> None:
    log = str(tmp_path / "log")
    with scripted_pool(timeout_seconds=60.0) as pool:
        assert ask(pool, "verify", [(log, f"a{number} ok") for number in range(4)]) == ["correct"] * 4
        killed = FORK_SERVER.process
        assert killed is not None
        os.kill(killed.pid, signal.SIGKILL)
        if is_reaped:
            os.waitpid(killed.pid, 0)
        assert ask(pool, "verify", [(log, f"b{number} ok") for number in range(4)]) == ["correct"] * 4
        kill_workers(pool)
        assert ask(pool, "map", [(log, f"c{number} ok") for number in range(4)]) == ["correct"] * 4
        assert FORK_SERVER.process is not killed


def test_workers_that_never_start_raise_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ossft_ray.verification.pool._NUM_STARTS", 2)
    function = VerifyPython(function="tests.verification.dies_on_import:grade")
    with VerifierPool(Verify(kind="python", python=function)) as pool:
        with pytest.raises(JobError, match="died 2 times while they started"):
            list(pool.map([RIGHT]))
        with pytest.raises(JobError, match="out of memory or processes"):
            asyncio.run(pool.verify(*RIGHT))


def test_workers_ignore_ctrl_c() -> None:
    with VerifierPool(Verify(num_workers=2)) as pool:
        assert list(pool.map([RIGHT] * 4)) == [CORRECT] * 4
        before = pool.worker_pids
        assert before
        kill_workers(pool, signal.SIGINT)
        assert list(pool.map([RIGHT] * 4)) == [CORRECT] * 4
        assert set(before) <= set(pool.worker_pids)


# The script has no `__name__` guard, because workers must not run the main module of their parent.
PARENT = rf"""
import sys, time
from ossft_ray.config import Verify
from ossft_ray.verification import VerifierPool
pool = VerifierPool(Verify(timeout_seconds=4.0, num_workers=2))
print(*(verdict.reason for verdict in pool.map([("5", r"\boxed{{5}}")] * 2)), flush=True)
print(next(pool.map([("5", r"{ENDLESS}")])) if "busy" in sys.argv else time.sleep(600), flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("state", ["idle", "busy"])
def test_workers_end_when_their_parent_is_killed(tmp_path: Path, state: str) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT, encoding="utf-8")
    marker = {"OSSFT_TEST_MARKER": f"{os.getpid()}-{state}"}  # inherited by every process that the parent starts
    with subprocess.Popen([sys.executable, script, state], stdout=subprocess.PIPE, env=os.environ | marker) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"correct correct\n"
        time.sleep(1)
        assert len(processes_with(marker)) >= 4  # the parent, the fork server, two workers
        parent.kill()
    deadline = time.monotonic() + 30
    while (left := processes_with(marker)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == []


def processes_with(variables: dict[str, str]) -> list[int]:
    """The processes whose environment has these variables."""
    wanted = {f"{name}={value}".encode() for name, value in variables.items()}
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if wanted <= set(environment.read_bytes().split(b"\0")):
                found.append(int(environment.parent.name))
        except OSError:  # it has ended, or belongs to another user
            continue
    return found
