"""Which gold answers do the policy's own attempts speak against? Where they agree with each other on another answer.

Only `self` attempts are asked: they are independent of each other, and have not seen the expert's solution.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from ossft_ray.common.types import Attempt

MIN_AGREEING = 3
Same = Callable[[str, str], Awaitable[bool]]
"""Whether the second answer is the first, as the verifier sees it."""


@dataclass(frozen=True)
class Suspect:
    """The evidence against a gold answer: which answer attempts agree on, and how many there were."""

    agreed_answer: str
    agreeing: list[int]  # indices of these attempts within the stage `self`
    num_attempts: int
    num_correct: int


async def find_suspect(attempts: Sequence[Attempt], same: Same) -> Suspect | None:
    """The answer that at least three attempts, and more than half of all that answered, give against the gold's.

    None where there is no such answer.
    """
    own = [attempt for attempt in attempts if attempt.stage == "self"]
    answered = [attempt for attempt in own if attempt.extracted is not None]
    num_needed = max(MIN_AGREEING, len(answered) // 2 + 1)
    groups: dict[str, list[int]] = {}
    for attempt in answered:
        if attempt.correct:
            continue
        answer = " ".join(str(attempt.extracted).split())
        groups.setdefault(answer, []).append(attempt.index)
    if sum(map(len, groups.values())) < num_needed:
        return None
    merged: dict[str, list[int]] = {}
    for answer, indices in groups.items():
        for known in merged:
            if await same(known, answer):
                merged[known] += indices
                break
        else:
            merged[answer] = indices
    answer, agreeing = max(merged.items(), key=lambda item: len(item[1]))
    if len(agreeing) < num_needed:
        return None
    return Suspect(answer, sorted(agreeing), len(own), sum(attempt.correct for attempt in own))
