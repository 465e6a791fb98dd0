"""The paper's data rewriting (arXiv 2509.15157, Section 3): self-alignment, guided-alignment, fallback.

`rewrite_problem` is the whole algorithm for one problem. How a response is sampled and how it is verified are
passed in, so the same coroutine runs on scripted answers in a test and on vLLM's async engine in a Ray actor.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from ossft_ray.config import Prompts, Rewrite
from ossft_ray.method.prompts import Message, guided_prompt, solve_prompt

Stage = Literal["self", "guided"]
Origin = Literal["self", "guided", "expert"]


@dataclass(frozen=True)
class Problem:
    """A problem with its checked answer; benchmarks come without an expert solution."""

    problem_id: str
    question: str
    answer: str
    expert_solution: str | None


@dataclass(frozen=True)
class Response:
    """What the policy wrote: its tokens as sampled (end-of-turn included), and why it stopped (stop | length)."""

    text: str
    token_ids: list[int]
    finish_reason: str
    num_prompt_tokens: int = 0


@dataclass(frozen=True)
class Attempt:
    """One response with its verdict."""

    stage: Stage
    index: int
    response: Response
    correct: bool
    reason: str


@dataclass(frozen=True)
class Rewritten:
    """What becomes of a problem. `kept` is None where the expert's solution stays, or nothing (`origin` None)."""

    origin: Origin | None
    kept: Attempt | None
    attempts: list[Attempt]


class Graded(Protocol):
    """What a verifier says of a response."""

    @property
    def correct(self) -> bool: ...
    @property
    def reason(self) -> str: ...


Sample = Callable[[Stage, list[Message], int], Awaitable[Response]]
"""(stage, prompt, index within the stage) -> a response; raises PromptTooLong."""
Verify = Callable[[str, str], Awaitable[Graded]]
"""(answer, response text) -> a verdict."""


class PromptTooLong(Exception):
    """The rendered prompt leaves no room for a response in the policy's context."""


async def rewrite_problem(
    problem: Problem, sample: Sample, verify: Verify, settings: Rewrite, prompts: Prompts
) -> Rewritten:
    """Keep the policy's own correct solution; else let it re-solve with the expert's in view; else fall back.

    In each stage the kept response is the correct one of lowest index. Since samples are independent, it has the
    same distribution as a uniformly random correct one of all n (the paper's choice), so drawing may stop early.
    A guided prompt that does not fit the context skips that stage with one attempt of reason `prompt_too_long`.
    """
    attempts: list[Attempt] = []
    for stage in settings.stages:
        try:
            drawn = await _draw(stage, problem, sample, verify, settings, prompts)
        except PromptTooLong:
            nothing = Response("", [], "prompt_too_long")
            attempts.append(Attempt(stage, 0, nothing, correct=False, reason="prompt_too_long"))
            continue
        attempts += drawn
        kept = next((attempt for attempt in drawn if attempt.correct), None)
        if kept is not None:
            return Rewritten(stage, kept, attempts)
    return Rewritten("expert" if settings.fallback == "expert" else None, None, attempts)


async def _draw(
    stage: Stage, problem: Problem, sample: Sample, verify: Verify, settings: Rewrite, prompts: Prompts
) -> list[Attempt]:
    """Attempts of one stage in index order: all of them, or wave by wave until one is correct."""
    prompt = stage_prompt(stage, problem, settings, prompts)
    num_samples = (settings.self_alignment if stage == "self" else settings.guided_alignment).num_samples

    async def attempt(index: int) -> Attempt:
        response = await sample(stage, prompt, index)
        if response.finish_reason != "stop":
            return Attempt(stage, index, response, correct=False, reason="truncated")
        verdict = await verify(problem.answer, response.text)
        return Attempt(stage, index, response, verdict.correct, verdict.reason)

    attempts: list[Attempt] = []
    for wave in waves(num_samples, settings.exhaustive):
        attempts += await asyncio.gather(*map(attempt, wave))
        if any(a.correct for a in attempts) and not settings.exhaustive:
            break
    return attempts


def stage_prompt(stage: Stage, problem: Problem, settings: Rewrite, prompts: Prompts) -> list[Message]:
    """The plain prompt for `self`, the one with the expert solution in view for `guided`."""
    if stage == "self":
        return solve_prompt(problem.question, prompts.system, prompts.solve)
    assert problem.expert_solution is not None
    hide_answer = settings.guided_alignment.hide_answer
    return guided_prompt(problem.question, problem.expert_solution, prompts.system, prompts.guided, hide_answer)


def waves(num_samples: int, exhaustive: bool = False) -> Iterator[range]:
    """Index ranges to draw one after the other: sizes 1, 1, 2, 4, ... up to `num_samples` in all.

    >>> [len(wave) for wave in waves(10)]
    [1, 1, 2, 4, 2]
    """
    if exhaustive:
        yield range(num_samples)
        return
    start, size = 0, 1
    while start < num_samples:
        end = min(start + size, num_samples)
        yield range(start, end)
        start, size = end, max(1, end)


def derive_seed(*parts: str | int) -> int:
    """A 63-bit sampling seed from what identifies a draw, such as (run seed, problem id, stage, index)."""
    joined = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(joined.encode()).digest()[:8], "big") >> 1
