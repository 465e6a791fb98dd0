"""Suspect gold answers: the policy's own attempts agree on another answer.

Only `self` attempts count: they are independent of each other and have not seen the expert's solution.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from ossft_ray.common.types import Attempt

MIN_AGREEING = 3
IsSame = Callable[[str, str], Awaitable[bool]]
"""(answer, other answer) -> whether the verifier takes them as equal."""


@dataclass(frozen=True)
class Suspect:
    """The evidence against a gold answer: the answer that attempts agree on, and how many attempts there were."""

    agreed_answer: str
    agreeing: list[int]  # indices of the attempts that give it, within the stage `self`
    num_attempts: int
    num_correct: int


async def find_suspect(attempts: Sequence[Attempt], is_same: IsSame) -> Suspect | None:
    """The wrong answer on which at least three attempts agree, and more than half of those with an answer; or None."""
    of_self = [attempt for attempt in attempts if attempt.stage == "self"]
    answered = [attempt for attempt in of_self if attempt.extracted is not None]
    num_needed = max(MIN_AGREEING, len(answered) // 2 + 1)
    groups: dict[str, list[int]] = {}
    for attempt in answered:
        if not attempt.correct:
            groups.setdefault(" ".join(str(attempt.extracted).split()), []).append(attempt.index)
    if sum(map(len, groups.values())) < num_needed:
        return None
    merged: dict[str, list[int]] = {}
    for answer, indices in groups.items():
        for known in merged:
            if await is_same(known, answer):
                merged[known] += indices
                break
        else:
            merged[answer] = indices
    answer, agreeing = max(merged.items(), key=lambda item: len(item[1]))
    if len(agreeing) < num_needed:
        return None
    return Suspect(answer, sorted(agreeing), len(of_self), sum(attempt.correct for attempt in of_self))
