"""avg@k, pass@k and maj@k of a model on a benchmark, with standard errors. Values are in 0..1."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev


@dataclass(frozen=True)
class Sample:
    """One graded response."""

    correct: bool
    extracted: str | None  # the answer read from it
    finished: bool = True  # it ended by itself; False if it was cut at the limit of tokens, or never drawn
    num_tokens: int = 0

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
    ks = [2**power for power in range(num_samples.bit_length()) if 2**power < num_samples] + [num_samples]
    return BenchmarkResult(
        avg=fmean(means),
        stderr=standard_error(means),
        pass_at={k: fmean(pass_at_k(len(row), sum(row), k) for row in correct) for k in ks},
        maj=fmean(majority([s.correct for s in row], [s.extracted for s in row]) for row in samples),
        problems=len(samples),
        samples=num_samples,
        finished=fmean(fmean(s.finished for s in row) for row in samples),
        in_form=fmean(fmean(s.finished and s.answered for s in row) for row in samples),
        answered=fmean(fmean(s.answered for s in row) for row in samples),
        mean_tokens=fmean(fmean(s.num_tokens for s in row) for row in samples),
    )


def standard_error(values: Sequence[float]) -> float:
    """The standard error of the mean of independent values; of per-problem means, it is clustered by problem.

    It is 0.0 for a single value, which says nothing about the error.
    """
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Unbiased probability that at least one of k samples is correct (Chen et al. 2021, arXiv 2107.03374, eq. 1)."""
    return 1.0 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def majority(correct: Sequence[bool], extracted: Sequence[str | None]) -> float:
    """1.0 if the most frequent answer is correct; in a tie, the share of the tied answers that are.

    Samples without an answer do not vote.
    """
    votes = Counter(answer for answer in extracted if answer is not None)
    if not votes:
        return 0.0
    most = max(votes.values())
    is_correct = {answer: verdict for answer, verdict in zip(extracted, correct, strict=True) if answer is not None}
    return fmean(is_correct[answer] for answer, count in votes.items() if count == most)


def paired_difference(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error of after - before over the same problems."""
    differences = [b - a for a, b in zip(before, after, strict=True)]
    return fmean(differences), standard_error(differences)
