"""Suspect gold answers: the policy's own attempts agree on another answer.

Only `self` attempts count: they are independent of each other and have not seen the expert's solution. What their
agreement is worth depends on the policy. One that solves most other problems at its first attempt may well be right
where the data is wrong; a weak one agrees with itself on its own mistakes.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ossft_ray.common.types import Attempt

MIN_AGREEING = 3
STRONG = 0.5  # share of right first attempts at other problems; below it, most suspects are the policy's own mistakes
IsSame = Callable[[str, str], Awaitable[bool]]
"""(answer, other answer) -> whether the verifier takes them as equal."""


@dataclass(frozen=True)
class Suspect:
    """The evidence against a gold answer: the answer that attempts agree on, and how many attempts there were."""

    agreed_answer: str
    agreeing: list[int]  # indices of the attempts that give it, within the stage `self`
    num_attempts: int
    num_correct: int


def evidence(num_agreeing: int, num_attempts: int, strength: float) -> float:
    """How strongly a suspect's attempts speak against its gold answer, 0..1.

    It is the share of attempts that agree, by the rule of succession (so 8 of 8 say more than 3 of 3), times
    `strength`, the share of first attempts at the other problems that are right.

    >>> evidence(8, 8, 0.8), evidence(3, 3, 0.8)
    (0.72, 0.64)
    """
    return strength * (num_agreeing + 1) / (num_attempts + 2)


async def find_suspect(attempts: Sequence[Attempt], is_same: IsSame) -> Suspect | None:
    """The wrong answer that at least three attempts, and more than half of those with an answer, agree on; or None."""
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


@dataclass(frozen=True)
class RankedSuspect:
    """A problem whose attempts agree on an answer other than the gold answer."""

    problem_id: str
    answer: str
    agreed_answer: str
    num_agreeing: int
    num_attempts: int
    evidence: float  # 0..1


@dataclass(frozen=True)
class Suspects:
    """Suspects, ranked by evidence. `num_right` first attempts at `num_others` other problems are right."""

    ranked: list[RankedSuspect]
    num_right: int
    num_others: int

    @property
    def strength(self) -> float:
        """Share of the other problems whose first attempt is right, 0..1."""
        return self.num_right / self.num_others if self.num_others else 0.0

    @property
    def is_trustworthy(self) -> bool:
        """Whether the policy is strong enough for its agreement to mean something."""
        return self.strength >= STRONG

    @property
    def note(self) -> str:
        """How far to trust the list, in a sentence or two."""
        words = f"On the other problems, {self.num_right:,} of {self.num_others:,} first attempts are right"
        if not self.is_trustworthy:
            return f"{words} ({self.strength:.0%}). A policy this weak often agrees with itself on its own mistakes."
        return f"{words} ({self.strength:.0%})."


def rank_suspects(
    suspects: Iterable[dict[str, Any]], attempts_by_problem: Iterable[tuple[str, list[dict[str, Any]]]]
) -> Suspects:
    """Rank suspects, given as a manifest lists them. `attempts_by_problem` yields each problem's id and attempts.

    Sampling stops at a correct attempt, so only the first attempts tell how strong the policy is.
    """
    by_id = {suspect["problem_id"]: suspect for suspect in suspects}
    firsts = [
        attempt["correct"]
        for problem_id, attempts in attempts_by_problem
        for attempt in attempts
        if problem_id not in by_id and attempt["stage"] == "self" and attempt["index"] == 0
    ]
    found = Suspects([], sum(firsts), len(firsts))
    for problem_id, suspect in by_id.items():
        counts = len(suspect["agreeing"]), suspect["num_attempts"]
        answers = suspect["answer"], suspect["agreed_answer"]
        found.ranked.append(RankedSuspect(problem_id, *answers, *counts, evidence(*counts, found.strength)))
    found.ranked.sort(key=lambda suspect: -suspect.evidence)
    return found
