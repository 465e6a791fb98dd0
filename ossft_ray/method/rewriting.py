"""The paper's data rewriting (arXiv 2509.15157, Section 3): self-alignment, guided-alignment, fallback.

`rewrite_problem` is the whole algorithm for one problem. How a response is sampled and how it is verified are
passed in, so the same coroutine runs on scripted answers in a test and on vLLM's async engine in a Ray actor.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from dataclasses import dataclass
from typing import Protocol

from ossft_ray.common.prompt_templates import Message
from ossft_ray.common.types import Attempt, Problem, PromptTooLong, Response, Rewritten, Stage
from ossft_ray.config import GuidedAlignment, Prompts, Rewrite
from ossft_ray.method.acceptance import DEFAULT_MAX_COPIED, copied_share, mentions_reference
from ossft_ray.method.prompts import guided_prompt, solve_prompt
from ossft_ray.method.thinking import is_unclosed, split_thinking

TRUNCATED, REPETITION, PROMPT_TOO_LONG = "truncated", "repetition", "prompt_too_long"
MENTIONS_REFERENCE, COPIES_REFERENCE = "mentions_reference", "copies_reference"


class Graded(Protocol):
    """What a verifier says of a response; `extracted` is the answer that it read."""

    @property
    def correct(self) -> bool: ...
    @property
    def reason(self) -> str: ...
    @property
    def extracted(self) -> str | None: ...


Sample = Callable[[Stage, list[Message], int], Awaitable[Response]]
"""(stage, prompt, index within the stage) -> a response; raises PromptTooLong."""
Verify = Callable[[Problem, str], Awaitable[Graded]]
"""(problem, response text) -> a verdict."""
Attempts = MutableMapping[tuple[Stage, int], Attempt]
"""Attempts at one problem by stage and index."""
Room = Callable[[], Awaitable[None]]
"""Returns when the policy has nothing better to do than a draw that may not be needed."""
Limit = Callable[[], Awaitable[float]]
"""The share of a guided response that may be copied from its guide, 0..1."""


@dataclass(frozen=True)
class Judgement:
    """Whether a response may be kept, why not, and the answer that was read from it."""

    correct: bool
    reason: str
    extracted: str | None = None


async def rewrite_problem(
    problem: Problem,
    sample: Sample,
    verify: Verify,
    settings: Rewrite,
    prompts: Prompts | None = None,
    *,
    made: Attempts | None = None,
    room: Room | None = None,
    max_copied: Limit | None = None,
) -> Rewritten:
    """Keep the policy's own correct solution; else let it re-solve with the expert's in view; else fall back.

    In each stage the kept response is the correct one of lowest index (or the first `keep_per_problem`). Since
    samples are independent, it has the same distribution as a uniformly random correct one of all n (the paper's
    choice), so drawing may stop early. What is returned depends on the samples alone, not on when they came.

    A guided prompt that does not fit the context skips that stage with one attempt of reason `prompt_too_long`. A
    problem without an answer falls back at once.

    Args:
        made: attempts of an earlier session, which are not drawn again; new ones are put in as they are made.
        room: lets later waves begin early; what they drew and turns out not to be needed is left out.
        max_copied: gives the limit where `[rewrite.guided_alignment] max_copied` is `auto`.
    """
    made, prompts = {} if made is None else made, prompts or Prompts()
    attempts: list[Attempt] = []
    for stage in settings.stages if problem.answer else []:
        prompt = stage_prompt(stage, problem, settings, prompts)
        drawing = asyncio.Event()  # set once the policy is really asked for something

        async def attempt(
            index: int, stage: Stage = stage, prompt: list[Message] = prompt, drawing: asyncio.Event = drawing
        ) -> Attempt:
            if (stage, index) not in made:
                drawing.set()
                response = await sample(stage, prompt, index)
                judged = await _judge(stage, response, problem, verify, settings.guided_alignment, max_copied)
                made[stage, index] = Attempt(
                    stage=stage,
                    index=index,
                    correct=judged.correct,
                    reason=judged.reason,
                    finish_reason=response.finish_reason,
                    num_tokens=len(response.token_ids),
                    response=response,
                    extracted=judged.extracted,
                )
            return made[stage, index]

        num_samples = (settings.self_alignment if stage == "self" else settings.guided_alignment).num_samples
        try:
            drawn = await _draw(attempt, num_samples, settings, room, drawing)
        except PromptTooLong:
            attempts.append(Attempt(stage, 0, False, PROMPT_TOO_LONG, PROMPT_TOO_LONG, 0))
            continue
        attempts += drawn
        if kept := [attempt for attempt in drawn if attempt.correct][: settings.keep_per_problem]:
            return Rewritten(stage, kept, attempts)
    return Rewritten("expert" if settings.fallback == "expert" else None, [], attempts)


async def _draw(
    attempt: Callable[[int], Awaitable[Attempt]],
    num_samples: int,
    settings: Rewrite,
    room: Room | None,
    drawing: asyncio.Event,
) -> list[Attempt]:
    """Attempts of one stage in index order: all of them, or wave by wave until enough are correct.

    Nothing begins early before the first of them is `drawing`: attempts that are stored may be all that is needed.
    """
    begun: dict[int, asyncio.Future[Attempt]] = {}

    def begin(index: int) -> asyncio.Future[Attempt]:
        if index not in begun:
            begun[index] = asyncio.ensure_future(attempt(index))
        return begun[index]

    async def begin_early(room: Room) -> None:
        await drawing.wait()
        for index in range(num_samples):
            if index not in begun:
                await room()
                begin(index)

    early = asyncio.ensure_future(begin_early(room)) if room and not settings.exhaustive else None
    attempts: list[Attempt] = []
    try:
        for wave in waves(num_samples, settings.exhaustive):
            attempts += await asyncio.gather(*map(begin, wave))
            enough = sum(attempt.correct for attempt in attempts) >= settings.keep_per_problem
            if enough and not settings.exhaustive:
                break
        return attempts
    finally:
        unneeded = [task for task in [early, *begun.values()] if task is not None]
        for task in unneeded:
            task.cancel()
        await asyncio.gather(*unneeded, return_exceptions=True)


async def _judge(
    stage: Stage,
    response: Response,
    problem: Problem,
    verify: Verify,
    guided: GuidedAlignment,
    max_copied: Limit | None,
) -> Judgement:
    """Whether a response may be kept, and why not: finished, correct, and with no trace of the guide."""
    if response.finish_reason == "repetition":
        return Judgement(False, REPETITION)
    if not is_finished(response):
        return Judgement(False, TRUNCATED)
    verdict = await verify(problem, response.text)
    if stage == "guided" and verdict.correct:
        if any(mentions_reference(part, guided.reference_phrases) for part in split_thinking(response.text)):
            return Judgement(False, MENTIONS_REFERENCE, verdict.extracted)
        limit = guided.max_copied
        if limit == "auto":
            limit = await max_copied() if max_copied else DEFAULT_MAX_COPIED
        if share_of_guide(response, problem, guided.copied_ngram) > limit:
            return Judgement(False, COPIES_REFERENCE, verdict.extracted)
    return Judgement(verdict.correct, verdict.reason, verdict.extracted)


def is_finished(response: Response) -> bool:
    """Whether the policy ended the response itself, and not in the middle of its thinking."""
    return response.finish_reason == "stop" and not is_unclosed(response.text, response.in_thinking)


def share_of_guide(response: Response, problem: Problem, ngram: int) -> float:
    """The larger of the shares that the thinking and the answer have in common with the expert solution, 0..1."""
    guide = str(problem.expert_solution)
    return max(copied_share(part, guide, ngram) for part in split_thinking(response.text))


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
    # Parts are escaped, so that no two lists of parts read the same once joined.
    joined = "\x1f".join(str(part).replace("\\", "\\\\").replace("\x1f", "\\x1f") for part in parts)
    return int.from_bytes(hashlib.sha256(joined.encode()).digest()[:8], "big") >> 1
