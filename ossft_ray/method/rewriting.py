"""The paper's data rewriting (arXiv 2509.15157, Section 3): self-alignment, guided-alignment, fallback.

`rewrite_problem` is the whole algorithm for one problem. The functions that sample and verify a response are passed
in, so the same coroutine runs on scripted answers in a test and on vLLM's async engine in a Ray actor.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ossft_ray.common.prompt_templates import Message
from ossft_ray.common.types import Attempt, Problem, PromptTooLong, Response, RewriteResult, Stage
from ossft_ray.common.verdict import PROMPT_TOO_LONG
from ossft_ray.config import ExternalAlignment, GuidedAlignment, Prompts, Rewrite, SelfAlignment
from ossft_ray.method.acceptance import Verify, assess
from ossft_ray.method.prompts import guided_prompt, solve_prompt

Sample = Callable[[Stage, list[Message], int], Awaitable[Response]]
"""(stage, prompt, index within the stage) -> a response; raises PromptTooLong."""
SpareCapacity = Callable[[], Awaitable[None]]
"""Returns once the policy is so idle that a sample that may not be needed costs next to nothing."""


async def rewrite_problem(
    problem: Problem,
    sample: Sample,
    verify: Verify,
    settings: Rewrite,
    prompts: Prompts | None = None,
    *,
    known_attempts: Mapping[tuple[Stage, int], Attempt] | None = None,
    on_attempt: Callable[[Attempt], None] | None = None,
    spare_capacity: SpareCapacity | None = None,
) -> RewriteResult:
    """Keep the policy's own correct solution; else let it re-solve with the expert's in view; else fall back.

    In each stage the kept response is the correct one of lowest index (or the first `keep_per_problem`). Since samples
    are independent, it has the same distribution as a uniformly random correct one of all n (the paper's choice), so
    drawing may stop early. The result depends on the samples alone, not on the order in which they finish.

    If a prompt does not fit the context, its stage yields one attempt of reason `prompt_too_long`. A problem
    without an answer falls back at once.

    Args:
        known_attempts: attempts of an earlier session by stage and index; they are not made again.
        on_attempt: called with each new attempt as soon as it has its verdict.
        spare_capacity: lets later waves begin early; attempts that turn out not to be needed are left out.
    """
    sampler = _Sampler(
        problem, sample, verify, settings, prompts or Prompts(), known_attempts or {}, on_attempt, spare_capacity
    )
    attempts: list[Attempt] = []
    for stage in settings.stages if problem.answer else []:
        drawn = await sampler.draw_until_correct(stage)
        attempts += drawn
        if kept := [attempt for attempt in drawn if attempt.correct][: settings.keep_per_problem]:
            return RewriteResult(stage, kept, attempts)
    return RewriteResult("expert" if settings.fallback == "expert" else None, [], attempts)


@dataclass(frozen=True)
class _Sampler:
    """Makes the attempts at one problem."""

    problem: Problem
    sample: Sample
    verify: Verify
    settings: Rewrite
    prompts: Prompts
    known_attempts: Mapping[tuple[Stage, int], Attempt]
    on_attempt: Callable[[Attempt], None] | None
    spare_capacity: SpareCapacity | None

    async def draw_until_correct(self, stage: Stage) -> list[Attempt]:
        """The attempts of one stage in index order: wave by wave until enough are correct, or all if exhaustive."""
        num_samples = stage_settings(stage, self.settings).num_samples
        prompt = stage_prompt(stage, self.problem, self.settings, self.prompts)
        tasks: dict[int, asyncio.Task[Attempt]] = {}

        def begin(index: int) -> asyncio.Task[Attempt]:
            if index not in tasks:
                tasks[index] = asyncio.create_task(self.attempt(stage, prompt, index))
            return tasks[index]

        async def begin_early(spare_capacity: SpareCapacity) -> None:
            for index in range(num_samples):
                if index not in tasks:
                    await spare_capacity()
                    begin(index)

        early: asyncio.Task[None] | None = None
        attempts: list[Attempt] = []
        try:
            for wave in waves(num_samples, self.settings.exhaustive):
                wave_tasks = [begin(index) for index in wave]
                # Known attempts may suffice, so nothing begins early until a new one is made.
                is_known = all((stage, index) in self.known_attempts for index in wave)
                is_free = stage != "external"  # another model's samples may have a price
                if self.spare_capacity and early is None and not is_known and is_free:
                    early = asyncio.create_task(begin_early(self.spare_capacity))
                attempts += await asyncio.gather(*wave_tasks)
                if sum(attempt.correct for attempt in attempts) >= self.settings.keep_per_problem:
                    break
            return attempts
        except PromptTooLong:
            return [Attempt(stage, 0, False, PROMPT_TOO_LONG, PROMPT_TOO_LONG, 0)]
        finally:
            unneeded: list[asyncio.Task[Any]] = [*tasks.values(), *([early] if early else [])]
            for task in unneeded:
                task.cancel()
            await asyncio.gather(*unneeded, return_exceptions=True)

    async def attempt(self, stage: Stage, prompt: list[Message], index: int) -> Attempt:
        """The known attempt, or a new one with its verdict."""
        if (stage, index) in self.known_attempts:
            return self.known_attempts[stage, index]
        response = await self.sample(stage, prompt, index)
        verdict = await assess(response, stage, self.problem, self.verify, self.settings)
        attempt = Attempt(
            stage=stage,
            index=index,
            correct=verdict.correct,
            reason=verdict.reason,
            finish_reason=response.finish_reason,
            num_tokens=len(response.token_ids),
            response=response,
            extracted=verdict.extracted,
        )
        if self.on_attempt:
            self.on_attempt(attempt)
        return attempt


def stage_settings(stage: Stage, settings: Rewrite) -> SelfAlignment | GuidedAlignment | ExternalAlignment:
    """`[rewrite.self_alignment]`, `[rewrite.guided_alignment]` or `[rewrite.external_alignment]`."""
    if stage == "external":
        return settings.external_alignment
    return settings.self_alignment if stage == "self" else settings.guided_alignment


def stage_prompt(stage: Stage, problem: Problem, settings: Rewrite, prompts: Prompts) -> list[Message]:
    """The plain prompt for `self`, the one with the expert solution in view for the other stages."""
    if stage == "self":
        return solve_prompt(problem.question, prompts.system, prompts.solve, problem.conversation)
    assert problem.expert_solution is not None
    hidden_answer = problem.answer if settings.guided_alignment.hide_answer else None
    texts = problem.question, problem.expert_solution, prompts.system, prompts.guided
    return guided_prompt(*texts, hidden_answer, problem.conversation)


def waves(num_samples: int, exhaustive: bool = False) -> list[range]:
    """Index ranges to draw one after the other: sizes 1, 1, 2, 4, ... up to `num_samples` in total.

    >>> [len(wave) for wave in waves(10)]
    [1, 1, 2, 4, 2]
    """
    if exhaustive:
        return [range(num_samples)]
    ends = [1]
    while ends[-1] < num_samples:
        ends.append(min(2 * ends[-1], num_samples))
    return [range(start, end) for start, end in pairwise([0, *ends])]


def derive_seed(*parts: str | int) -> int:
    """A 63-bit sampling seed from the parts that identify a sample, such as (run seed, problem id, stage, index)."""
    # Parts are escaped, so that different lists of parts never join to the same text.
    joined = "\x1f".join(str(part).replace("\\", "\\\\").replace("\x1f", "\\x1f") for part in parts)
    return int.from_bytes(hashlib.sha256(joined.encode()).digest()[:8], "big") >> 1
