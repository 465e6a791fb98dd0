"""Rewriting replayed from recorded attempts, with the same code that made them and without the policy."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ossft_ray.common.errors import InputError
from ossft_ray.common.prompt_templates import Message
from ossft_ray.common.types import Attempt, Problem, PromptTooLong, Response, RewriteResult, Stage
from ossft_ray.common.verdict import PROMPT_TOO_LONG
from ossft_ray.config import Rewrite
from ossft_ray.method.acceptance import Verify
from ossft_ray.method.rewriting import rewrite_problem
from ossft_ray.stages.derive.ablations import Ablation

Unsampled = Literal["fallback", "drop"]
"""What becomes of a problem that needs a stage in which the run drew no sample for it."""


@dataclass(frozen=True)
class Replayed:
    """The result for one problem; `not_sampled` is a stage that it needed but had no samples of."""

    result: RewriteResult
    not_sampled: Stage | None = None


class _NotSampled(Exception):
    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self.stage = stage


async def replay_problem(
    problem: Problem,
    attempts: Mapping[tuple[Stage, int], Attempt],
    ablation: Ablation,
    settings: Rewrite,
    verify: Verify,
    unsampled: Unsampled = "fallback",
) -> Replayed:
    """What `rewrite_problem` would return for a problem, if the policy answered as it did in `attempts`.

    A stage that is needed but was never sampled for this problem is left out, as if all its samples had been wrong.
    Then the problem falls back as `[rewrite] fallback` says, or is dropped if `unsampled` is `drop`.

    Args:
        attempts: the recorded attempts by stage and index.
        settings: those of the run that made the attempts.
        verify: used only for expert solutions, if the ablation verifies them.

    Raises:
        InputError: a response would be kept whose tokens are not recorded.
    """
    if ablation.verifies_experts:
        is_sound = problem.answer and (await verify(problem, str(problem.expert_solution))).correct
        return Replayed(RewriteResult("expert" if is_sound else None, [], []))
    settings, not_sampled = ablation.apply(settings), None

    async def sample(stage: Stage, prompt: list[Message], index: int) -> Response:
        first = attempts.get((stage, 0))
        raise PromptTooLong if first and first.reason == PROMPT_TOO_LONG else _NotSampled(stage)

    while True:
        try:
            result = await rewrite_problem(problem, sample, verify, settings, known_attempts=attempts)
            break
        except _NotSampled as missing:
            not_sampled = missing.stage
            others = [stage for stage in settings.stages if stage != missing.stage]
            settings = settings.model_copy(update={"stages": others})
    if not_sampled and unsampled == "drop" and not result.kept:
        result = RewriteResult(None, [], result.attempts)
    for attempt in result.kept:
        if attempt.response is None or not attempt.response.token_ids:
            raise InputError(
                f"problem {problem.problem_id}: the tokens of attempt {attempt.stage}/{attempt.index} are not "
                "recorded, so it cannot be kept; rewrite again with [rewrite] keep_per_problem as large as needed"
            )
    return Replayed(result, not_sampled)
