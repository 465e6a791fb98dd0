"""What do stored attempts say once a gold answer is corrected? They are graded again, without the policy.

An attempt's text is graded where it is stored, else the answer that was read from it. Drawn again is only what changed
in a way that its stored part cannot show: a wrong attempt that is right now, whose tokens nobody kept, and guided
attempts whose guide, the expert's solution, is another.
"""

import dataclasses
import hashlib
from collections.abc import Iterable
from typing import NamedTuple

from ossft_ray.common.types import Attempt, Problem
from ossft_ray.common.verdict import NO_VERDICT
from ossft_ray.method.rewriting import (
    COPIES_REFERENCE,
    MENTIONS_REFERENCE,
    PROMPT_TOO_LONG,
    REPETITION,
    TRUNCATED,
    Verify,
)

_NEVER_GRADED = (TRUNCATED, REPETITION, PROMPT_TOO_LONG)  # they are what they are, whatever the answer is
_LEAKS = (MENTIONS_REFERENCE, COPIES_REFERENCE)  # of right answers that may not be kept


class Gold(NamedTuple):
    """What an attempt was graded against, and what its guide was, each as a digest."""

    answer: str
    verifier: str
    guide: str

    @classmethod
    def of(cls, answer: str, verifier: str | None, expert_solution: str | None) -> "Gold":
        return cls(_digest(answer), verifier or "", _digest(expert_solution or ""))

    @classmethod
    def of_problem(cls, problem: Problem) -> "Gold":
        return cls.of(problem.answer, problem.verifier, problem.expert_solution)


async def regrade(
    problem: Problem, attempts: Iterable[tuple[Attempt, Gold]], verify: Verify, num_kept: int
) -> list[Attempt]:
    """Those of a problem's attempts, made for another gold, that need not be drawn again, as they are judged now.

    `num_kept` is how many correct responses the problem may keep: only these need their tokens.
    """
    gold = Gold.of_problem(problem)
    judged: list[Attempt] = []
    num_whole = {"self": 0, "guided": 0}
    for attempt, before in sorted(attempts, key=lambda pair: (pair[0].stage, pair[0].index)):
        if attempt.stage == "guided" and before.guide != gold.guide:
            continue
        found: Attempt | None = attempt
        if attempt.reason not in _NEVER_GRADED:
            found = await _graded_again(problem, attempt, before.verifier == gold.verifier, verify)
        if found is None:
            continue
        is_whole = found.response is not None and bool(found.response.token_ids)
        if found.correct and not is_whole and (num_whole[found.stage] < num_kept or not attempt.correct):
            continue
        num_whole[found.stage] += found.correct and is_whole
        judged.append(found)
    return judged


async def _graded_again(problem: Problem, attempt: Attempt, is_same_kind: bool, verify: Verify) -> Attempt | None:
    """The attempt with its new verdict; None where nothing is stored that could be graded."""
    if attempt.response is not None:
        text = attempt.response.text
    elif not is_same_kind:
        return None  # another kind may read another answer from it
    elif attempt.extracted is not None:
        text = rf"\boxed{{{attempt.extracted}}}"
    else:
        return None if attempt.correct or attempt.reason in NO_VERDICT else attempt
    verdict = await verify(problem, text)
    if verdict.correct and attempt.reason in _LEAKS:
        return attempt
    extracted = verdict.extracted if attempt.response is not None else attempt.extracted
    return dataclasses.replace(attempt, correct=verdict.correct, reason=verdict.reason, extracted=extracted)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
