"""Regrading stored attempts after a problem's gold answer or expert solution is corrected, without the policy.

An attempt is graded by its text if that is stored, else by the answer that was read from it. It must be sampled again
only where the stored attempt is not enough: a wrong attempt that is now right but whose tokens were not kept, and a
guided attempt whose guide has changed.
"""

import dataclasses
import hashlib
from collections.abc import Iterable
from typing import NamedTuple

from ossft_ray.common.types import Attempt, Problem
from ossft_ray.common.verdict import NEVER_GRADED, NO_VERDICT, UNSOUND
from ossft_ray.method.acceptance import Verify


class GradingKey(NamedTuple):
    """What determines an attempt's verdict: digests of the gold answer and the guide, and the kind of verifier."""

    answer: str
    verifier: str
    guide: str

    @classmethod
    def of(cls, problem: Problem) -> "GradingKey":
        return cls(_digest(problem.answer), problem.verifier or "", _digest(problem.expert_solution or ""))


async def regrade(
    problem: Problem, attempts: Iterable[tuple[Attempt, GradingKey]], verify: Verify, num_kept: int
) -> list[Attempt]:
    """Grade a corrected problem's stored attempts again; those that must be sampled again are left out.

    `num_kept` is how many correct responses the problem may keep: only these need their tokens.
    """
    key = GradingKey.of(problem)
    regraded: list[Attempt] = []
    num_with_tokens = {"self": 0, "guided": 0}
    for attempt, before in sorted(attempts, key=lambda pair: (pair[0].stage, pair[0].index)):
        if attempt.stage == "guided" and before.guide != key.guide:
            continue
        now: Attempt | None = attempt
        if attempt.reason not in NEVER_GRADED:
            now = await _grade_again(problem, attempt, before.verifier == key.verifier, verify)
        if now is None:
            continue
        has_tokens = now.response is not None and bool(now.response.token_ids)
        if now.correct and not has_tokens and (num_with_tokens[now.stage] < num_kept or not attempt.correct):
            continue
        num_with_tokens[now.stage] += now.correct and has_tokens
        regraded.append(now)
    return regraded


async def _grade_again(problem: Problem, attempt: Attempt, same_verifier: bool, verify: Verify) -> Attempt | None:
    """The attempt with its new verdict; None if nothing is stored that could be graded."""
    if attempt.response is not None:
        text = attempt.response.text
    elif not same_verifier:
        return None  # another kind of verifier may read another answer from the text
    elif attempt.extracted is not None:
        text = rf"\boxed{{{attempt.extracted}}}"
    else:
        return None if attempt.correct or attempt.reason in NO_VERDICT else attempt
    verdict = await verify(problem, text)
    if verdict.correct and attempt.reason in UNSOUND:
        return attempt
    extracted = verdict.extracted if attempt.response is not None else attempt.extracted
    return dataclasses.replace(attempt, correct=verdict.correct, reason=verdict.reason, extracted=extracted)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
