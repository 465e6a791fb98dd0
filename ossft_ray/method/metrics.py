"""avg@k, pass@k and maj@k of a model on a benchmark, with standard errors and intervals. Values are in 0..1.

**Interval of a mean over problems**, after Korn and Graubard (1998): Clopper and Pearson's exact binomial interval for
an effective number of problems: as many as would have the same variance if each were entirely right or wrong. Samples
of one problem resemble each other, so this number lies between that of problems and that of samples. If all
are right or all are wrong, the interval is about the exact one for that many problems, such as 0 to 12.5% for 0 of 30.
"""

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaincinv, ndtri, stdtrit

from ossft_ray.common.verdict import CRASHED, MEMORY, TIMEOUT, Verdict

Compare = Callable[[str, str], Awaitable[Verdict]]
"""(answer, other answer) -> the verifier's verdict on the other one, with the first one as the gold answer."""
_EXCEEDED_A_LIMIT = (TIMEOUT, MEMORY, CRASHED)
LEVEL = 0.95  # of all intervals
TAIL = (1 - LEVEL) / 2
PRIOR_SQUARES = 1.0  # those of four made-up problems, two right and two wrong, around 1/2 (Agresti and Coull 1998)


@dataclass(frozen=True)
class Sample:
    """One graded response."""

    correct: bool
    extracted: str | None  # the answer read from it
    finished: bool = True  # it ended by itself; False if it was cut at the token limit, or never drawn
    num_tokens: int = 0
    vote: int | None = None  # as `share_votes` gives it; None in older files, where equal texts share a vote

    @property
    def answered(self) -> bool:
        """Whether an answer was read from it; a correct response counts as answered, however it was found correct."""
        return self.correct or self.extracted is not None


Samples = Sequence[Sequence[Sample]]  # [problem][sample]


@dataclass(frozen=True)
class BenchmarkResult:
    """A model on one benchmark: `samples` responses to each of `problems`. Shares are means over problems."""

    avg: float  # avg@k: mean accuracy over problems and samples
    stderr: float  # of avg, clustered by problem
    low: float  # of avg's 95% confidence interval
    high: float
    pass_at: dict[int, float]  # pass@k for k = 1, 2, 4, ... up to the number of samples
    maj: float  # accuracy of the majority answer
    problems: int
    samples: int
    finished: float  # share that ended by itself
    in_form: float  # share that ended by itself and from which an answer was read
    answered: float  # share from which an answer was read, even if the limit cut the response after it
    mean_tokens: float  # of a response


def benchmark_result(samples: Samples) -> BenchmarkResult:
    """The result of a model on one benchmark.

    Raises:
        ValueError: there is no problem, or a problem without samples.
    """
    if not samples or not all(samples):
        raise ValueError("a benchmark's result needs at least one problem, and a sample of each")
    correct = [[sample.correct for sample in row] for row in samples]
    means = [fmean(row) for row in correct]
    num_samples = min(map(len, samples))
    stderr = standard_error(means)
    low, high = mean_interval(fmean(means), stderr, len(means))
    ks = [2**power for power in range(num_samples.bit_length()) if 2**power < num_samples] + [num_samples]
    return BenchmarkResult(
        avg=fmean(means),
        stderr=stderr,
        low=float(low),
        high=float(high),
        pass_at={k: fmean(pass_at_k(len(row), sum(row), k) for row in correct) for k in ks},
        maj=fmean(majority([s.correct for s in row], [_voted_for(s) for s in row]) for row in samples),
        problems=len(samples),
        samples=num_samples,
        finished=fmean(fmean(s.finished for s in row) for row in samples),
        in_form=fmean(fmean(s.finished and s.answered for s in row) for row in samples),
        answered=fmean(fmean(s.answered for s in row) for row in samples),
        mean_tokens=fmean(fmean(s.num_tokens for s in row) for row in samples),
    )


def standard_error(values: Sequence[float]) -> float:
    """The standard error of the mean of independent values; for per-problem means, it is clustered by problem.

    It is 0.0 for a single value, which says nothing about the error.
    """
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def mean_interval(
    mean: ArrayLike, stderr: ArrayLike, num_problems: int, prior_squares: float = PRIOR_SQUARES
) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the 95% interval of a mean over problems, or of each mean in an array.

    The effective number of problems is `num_problems` times the variance of problems that are entirely right or wrong,
    over the observed one. Few results hardly show how far problems differ, so `prior_squares`, a sum of squared
    deviations, is added to both: the less the results show, the closer the two variances are. The ratio of the
    quantiles of Student's t and of the normal distribution allows for the variance being an estimate.

    A single problem says nothing about others: 0 to 1.

    Args:
        mean: of values in 0..1, one of each problem.
        stderr: `standard_error` of the same values.

    Source: Korn and Graubard 1998, "Confidence intervals for proportions with small expected number of positive counts
    estimated from survey data", Survey Methodology 24; the prior is ours, chosen with `benchmarks/coverage.py`.
    """
    mean_X, stderr_X = np.clip(np.asarray(mean, float), 0, 1), np.asarray(stderr, float)
    if num_problems < 2:
        return np.zeros_like(mean_X), np.ones_like(mean_X)
    squares_X = stderr_X**2 * num_problems * (num_problems - 1)
    most_X = (num_problems - 1) * mean_X * (1 - mean_X)
    share_X = np.minimum((squares_X + prior_squares) / (most_X + prior_squares), 1)
    known = (ndtri(TAIL) / stdtrit(num_problems - 1, TAIL)) ** 2
    right_X, wrong_X = (part * known * num_problems / share_X for part in (mean_X, 1 - mean_X))
    # the inverse is not defined for a parameter of 0, where the interval reaches its end
    low_X = np.where(right_X > 0, betaincinv(np.where(right_X > 0, right_X, 1), wrong_X + 1, TAIL), 0.0)
    high_X = np.where(wrong_X > 0, betaincinv(right_X + 1, np.where(wrong_X > 0, wrong_X, 1), 1 - TAIL), 1.0)
    return low_X, high_X


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Unbiased probability that at least one of k samples is correct (Chen et al. 2021, arXiv 2107.03374, eq. 1)."""
    return 1.0 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def majority(correct: Sequence[bool], votes: Sequence[int | str | None]) -> float:
    """1.0 if the answer with the most votes is correct; in a tie, the share of the tied answers that are.

    Equal votes are votes for the same answer; None is not a vote.
    """
    counts = Counter(vote for vote in votes if vote is not None)
    if not counts:
        return 0.0
    most = max(counts.values())
    right = {vote for vote, is_right in zip(votes, correct, strict=True) if is_right}
    return fmean(vote in right for vote, count in counts.items() if count == most)


async def share_votes(verdicts: Sequence[Verdict], compare: Compare) -> list[int | None]:
    """The votes of a problem's samples for `majority`: equal answers get the index of the first of them.

    Answers that the verifier accepts are equal to the gold answer, and so to each other. Wrong answers are equal if
    their texts are, or if the verifier says so. It is asked only where the texts leave the outcome open, and never
    again about an answer that made it exceed a limit. A sample without an answer has no vote.
    """
    texts = [None if verdict.extracted is None else " ".join(verdict.extracted.split()) for verdict in verdicts]
    right_texts = {text for text, verdict in zip(texts, verdicts, strict=True) if verdict.correct}
    right: list[int] = []
    wrong: dict[str, list[int]] = {}
    for index, text in enumerate(texts):
        if text is not None:
            (right if text in right_texts else wrong.setdefault(text, [])).append(index)
    groups = list(wrong.values())
    sizes = [len(group) for group in groups]
    if len(groups) > 1 and max(sizes) <= len(right) <= sum(sizes):
        groups = await _merge(groups, verdicts, compare, len(right))
    votes: list[int | None] = [None] * len(verdicts)
    for group in (right, *groups):
        for index in group:
            votes[index] = group[0]
    return votes


async def _merge(
    groups: Sequence[list[int]], verdicts: Sequence[Verdict], compare: Compare, num_right: int
) -> list[list[int]]:
    """Merge groups of equal wrong answers, until one is larger than the group of right answers."""
    merged: list[list[int]] = []
    limited = {index for index, verdict in enumerate(verdicts) if verdict.reason in _EXCEEDED_A_LIMIT}
    largest = 0
    for group in groups:
        equal = None
        for known in merged if largest <= num_right else ():
            if limited & {known[0], group[0]}:
                continue
            verdict = await compare(str(verdicts[known[0]].extracted), str(verdicts[group[0]].extracted))
            if verdict.correct:
                equal = known
                break
            if verdict.reason in _EXCEEDED_A_LIMIT:
                limited |= {known[0], group[0]}
        if equal is None:
            merged.append(equal := [])
        equal += group
        largest = max(largest, len(equal))
    return merged


def _voted_for(sample: Sample) -> int | str | None:
    return sample.vote if sample.vote is not None else sample.extracted


def paired_difference(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error of after - before over the same problems."""
    differences = [b - a for a, b in zip(before, after, strict=True)]
    return fmean(differences), standard_error(differences)
