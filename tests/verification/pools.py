"""Pools, responses and helpers for the tests of the verifier pool."""

import asyncio
import os
import signal
from concurrent.futures import Future

from ossft_ray.config import Verify, VerifyPython
from ossft_ray.verification import Task, Verdict, VerifierPool

ENDLESS = r"\boxed{\sum_{n=1}^{\infty} \frac{\sin(n^2)}{n^2+1}}"
RIGHT = ("5", r"\boxed{5}")
CORRECT = Verdict(True, "correct", "5")
LIMIT_SECONDS = 0.3


def scripted_pool(timeout_seconds: float = LIMIT_SECONDS, num_workers: int = 2) -> VerifierPool:
    """A pool whose workers do what each response says; see `scripted_grader.py`."""
    function = VerifyPython(function="tests.verification.scripted_grader:grade")
    return VerifierPool(
        Verify(kind="python", timeout_seconds=timeout_seconds, num_workers=num_workers, python=function)
    )


def submit(pool: VerifierPool, answer: str, response: str) -> "Future[Verdict]":
    return pool._submit(Task(answer, response))


def ask(pool: VerifierPool, method: str, pairs: list[tuple[str, str]]) -> list[str]:
    """The reasons of the verdicts, by the pool's method `map` or `verify`."""

    async def verify_all() -> list[Verdict]:
        return await asyncio.gather(*(pool.verify(*pair) for pair in pairs))

    return [verdict.reason for verdict in (pool.map(pairs) if method == "map" else asyncio.run(verify_all()))]


def kill_workers(pool: VerifierPool, number: signal.Signals = signal.SIGKILL) -> None:
    for pid in pool.worker_pids:
        os.kill(pid, number)
