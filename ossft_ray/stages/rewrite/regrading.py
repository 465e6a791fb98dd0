"""Regrading stored attempts after a problem's gold answer or expert solution is corrected, without the policy.

Attempts whose text is stored are judged like fresh ones, others by the answer that was read from them. They are
sampled again only where the stored attempt is not enough: a wrong attempt that is now right but whose tokens were not
kept, an attempt whose guide has changed, one without its text that has to derive the new answer, or whose answer the
verifier may read differently.
"""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from ossft_ray.common.types import Attempt, Problem, Stage
from ossft_ray.common.verdict import CONTRADICTION, NEVER_GRADED, NO_DERIVATION, NO_VERDICT, UNSOUND, WRONG
from ossft_ray.config import Rewrite
from ossft_ray.method.acceptance import Verify, assess_finished


class GradingKey(NamedTuple):
    """What determines an attempt's verdict: digests of the gold answer and the guide, and the kind of verifier."""

    answer: str
    verifier: str
    guide: str

    @classmethod
    def of(cls, problem: Problem) -> "GradingKey":
        return cls(_digest(problem.answer), problem.verifier or "", _digest(problem.expert_solution or ""))


async def regrade(
    problem: Problem, attempts: Iterable[tuple[Attempt, GradingKey]], verify: Verify, settings: Rewrite
) -> list[Attempt]:
    """Grade a corrected problem's stored attempts again; those that must be sampled again are left out.

    Only the correct responses that the problem may keep need their tokens.
    """
    key = GradingKey.of(problem)
    regraded: list[Attempt] = []
    num_with_tokens: Counter[Stage] = Counter()
    for attempt, before in sorted(attempts, key=lambda pair: (pair[0].stage, pair[0].index)):
        if attempt.stage != "self" and before.guide != key.guide:
            continue
        now: Attempt | None = attempt
        if attempt.reason not in NEVER_GRADED:
            now = await _grade_again(problem, attempt, before.verifier == key.verifier, verify, settings)
        if now is None:
            continue
        has_tokens = now.response is not None and bool(now.response.token_ids)
        may_be_kept = num_with_tokens[now.stage] < settings.keep_per_problem or not attempt.correct
        if now.correct and not has_tokens and may_be_kept:
            continue
        num_with_tokens[now.stage] += now.correct and has_tokens
        regraded.append(now)
    return regraded


async def _grade_again(
    problem: Problem, attempt: Attempt, same_verifier: bool, verify: Verify, settings: Rewrite
) -> Attempt | None:
    """The attempt with its new verdict; None if what is stored does not decide it."""
    if attempt.response is not None:
        verdict = await assess_finished(attempt.response, attempt.stage, problem, verify, settings)
        correct, reason, extracted = verdict.correct, verdict.reason, verdict.extracted
        return dataclasses.replace(attempt, correct=correct, reason=reason, extracted=extracted)
    if not same_verifier:
        return None  # another kind of verifier may read another answer from the text
    if attempt.extracted is None:
        # a judge, or a user's function, may find a response wrong without reading an answer from it
        return None if attempt.correct or attempt.reason in (*NO_VERDICT, WRONG) else attempt
    verdict = await verify(problem, rf"\boxed{{{attempt.extracted}}}")
    if not verdict.correct:
        return dataclasses.replace(attempt, correct=False, reason=verdict.reason)
    is_derivation_open = attempt.stage != "self" and settings.guided_alignment.require_derivation
    if is_derivation_open and (attempt.correct or attempt.reason in (NO_DERIVATION, CONTRADICTION)):
        return None  # whether the text derives this answer is unknown
    return attempt if attempt.reason in UNSOUND else dataclasses.replace(attempt, correct=True, reason=verdict.reason)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
