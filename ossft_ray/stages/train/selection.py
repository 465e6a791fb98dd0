"""One response for each problem: which of several correct ones to train on, as `[train] select` says."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

MAX_RANK = 100  # r_max of the rank-surprisal ratio
Select = Literal["all", "first", "closest", "rsr", "shortest"]
FROM_SCORES: tuple[Select, ...] = ("closest", "rsr")


class Candidate(NamedTuple):
    """A response that may be trained on; with the scores of its tokens, if `select` needs them."""

    problem_id: str
    num_tokens: int
    logprobs: list[float] | None = None
    ranks: list[int] | None = None


def select_responses(candidates: Sequence[Candidate], select: Select) -> list[int]:
    """The indices of the responses to train on, in their order: all, or the best of each problem.

    | select     | the best response of a problem                                                     |
    |------------|------------------------------------------------------------------------------------|
    | `first`    | the first attempt, a random correct one, as in the paper                           |
    | `closest`  | the highest mean log p under the policy before training, given the plain prompt    |
    | `rsr`      | the lowest rank-surprisal ratio (arXiv 2601.14249), see `rank_surprisal_ratio`     |
    | `shortest` | the fewest tokens                                                                  |

    Candidates are in the order of their attempts; ties go to the first.
    """
    if select == "all":
        return list(range(len(candidates)))
    best: dict[str, tuple[float, int]] = {}
    for index, candidate in enumerate(candidates):
        found = (_badness(candidate, select), index)
        best[candidate.problem_id] = min(best.get(candidate.problem_id, found), found)
    return sorted(index for _, index in best.values())


def rank_surprisal_ratio(logprobs: Sequence[float], ranks: Sequence[int]) -> float:
    """Σ min(rank, 100) / Σ -log p over a response's tokens (arXiv 2601.14249): low for unlikely tokens near the top.

    Infinite for a response whose every token has probability 1.

    >>> rank_surprisal_ratio([-1.0, -3.0], [1, 500])
    25.25
    """
    surprisal = -math.fsum(logprobs)
    return sum(min(rank, MAX_RANK) for rank in ranks) / surprisal if surprisal > 0 else math.inf


def _badness(candidate: Candidate, select: Select) -> float:
    if select == "first":
        return 0.0
    if select == "shortest":
        return candidate.num_tokens
    assert candidate.logprobs is not None
    if select == "closest":
        return -math.fsum(candidate.logprobs) / max(1, len(candidate.logprobs))
    assert candidate.ranks is not None
    return rank_surprisal_ratio(candidate.logprobs, candidate.ranks)
