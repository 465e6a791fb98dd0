"""Rewriting in simulated time: the real `rewrite_problem` and window, with Ray Data's rule for parts, without Ray.

The event loop's clock jumps to the next event. So the simulation shows what the scheduling rules cost, for any number
of policies, but not what processes, files and messages cost.
"""

import asyncio
import heapq
import selectors
from collections import deque
from collections.abc import Sequence
from typing import Any

from manypolicies.usage import Draw, Usage, usage
from manypolicies.workload import SEED, Workload
from ossft_ray.common.prompt_templates import Message
from ossft_ray.common.types import Problem, Response, Stage
from ossft_ray.config import GuidedAlignment, Rewrite
from ossft_ray.engines.in_flight import InFlight
from ossft_ray.method.rewriting import derive_seed, rewrite_problem
from ossft_ray.verification import Verdict

SETTINGS = Rewrite(guided_alignment=GuidedAlignment(max_copied=1.0, require_derivation=False))


class _Jump(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """Does not wait, but moves the clock by the time that it should have waited."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("the simulation waits for an event that never happens")
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next event."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.now


class SimulatedPolicy:
    """One engine with its slots and the problems in flight."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.in_flight = InFlight(workload.window, workload.spare_below)
        self.slots = asyncio.Semaphore(workload.slots)
        self.draws: list[Draw] = []

    async def part(self, problems: Sequence[Problem]) -> None:
        await asyncio.gather(*map(self.problem, problems))

    async def problem(self, problem: Problem) -> None:
        async def sample(stage: Stage, prompt: list[Message], index: int) -> Response:
            seed = derive_seed(SEED, problem.problem_id, stage, index)
            seconds, is_right = self.workload.draw(problem.problem_id, stage, seed)
            with self.in_flight.request():
                async with self.slots:
                    begin = asyncio.get_running_loop().time()
                    try:
                        await asyncio.sleep(seconds)
                    finally:
                        self.draws.append((begin, asyncio.get_running_loop().time()))
            return Response("right" if is_right else "wrong", [], "stop")

        async with self.in_flight.problem():
            await rewrite_problem(problem, sample, verify, SETTINGS, spare_capacity=self.in_flight.spare_capacity)


async def verify(problem: Problem, response: str) -> Verdict:
    return Verdict(response == "right", "correct" if response == "right" else "wrong")


def simulate(
    workload: Workload, num_policies: int, part_sizes: Sequence[int], parts_at_once: int, late_seconds: float = 0.0
) -> Usage:
    """Give the parts out in this order, each to the policy that holds fewest, at most `parts_at_once` to each.

    Policies are ready one after the other, the last `late_seconds` after the first.
    """
    loop = VirtualLoop()
    try:
        policies = loop.run_until_complete(_run(workload, num_policies, part_sizes, parts_at_once, late_seconds))
    finally:
        loop.close()
    return usage([policy.draws for policy in policies], workload.slots)


async def _run(
    workload: Workload, num_policies: int, part_sizes: Sequence[int], parts_at_once: int, late_seconds: float
) -> list[SimulatedPolicy]:
    policies = [SimulatedPolicy(workload) for _ in range(num_policies)]
    waiting = deque(_parts(part_sizes))
    ready: list[tuple[int, int]] = []  # a heap of (parts held, policy); outdated entries are skipped
    held = [0] * num_policies
    working: set[asyncio.Task[None]] = set()
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def hand_out() -> None:
        while waiting and ready:
            num_parts, policy = ready[0]
            if num_parts != held[policy]:
                heapq.heappop(ready)
                continue
            if num_parts >= parts_at_once:
                return
            hold(policy, +1)
            task = asyncio.ensure_future(policies[policy].part(waiting.popleft()))
            working.add(task)
            task.add_done_callback(lambda task, policy=policy: finished(task, policy))

    def hold(policy: int, change: int) -> None:
        held[policy] += change
        heapq.heappush(ready, (held[policy], policy))

    def finished(task: "asyncio.Task[None]", policy: int) -> None:
        working.discard(task)
        task.result()
        hold(policy, -1)
        hand_out()
        if not working:
            ended.set()

    for policy in range(num_policies):
        loop.call_later(late_seconds * policy / max(1, num_policies - 1), lambda policy=policy: hold(policy, 0))
        loop.call_later(late_seconds * policy / max(1, num_policies - 1), hand_out)
    await ended.wait()
    return policies


def _parts(sizes: Sequence[int]) -> list[list[Problem]]:
    parts, number = [], 0
    for size in sizes:
        parts.append([Problem(f"p{n}", f"question {n}", "1", f"solution {n}") for n in range(number, number + size)])
        number += size
    return parts
