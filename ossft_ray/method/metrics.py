"""How good is a model, and how sure are we: avg@k, pass@k, maj@k and their standard errors. Values are in 0..1."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev


@dataclass(frozen=True)
class Sample:
    """One graded response."""

    correct: bool
    extracted: str | None  # the answer that was read from it
    finished: bool = True  # it ended by itself, not at the limit of tokens; one that was never drawn did not
    num_tokens: int = 0

    @property
    def answered(self) -> bool:
        """An answer was read from it; from one that was found correct in whatever way, it was."""
        return self.correct or self.extracted is not None


Samples = Sequence[Sequence[Sample]]  # [problem][sample]


@dataclass(frozen=True)
class Score:
    """A model on one benchmark: `samples` responses to each of `problems`. Shares are means over problems."""

    avg: float  # avg@k: mean accuracy over problems and samples
    stderr: float  # of avg, clustered by problem
    pass_at: dict[int, float]  # pass@k for k = 1, 2, 4, ... up to the number of samples
    maj: float  # accuracy of the majority answer
    problems: int
    samples: int
    finished: float  # share that stopped in time
    in_form: float  # share that stopped in time and from which an answer was read
    answered: float  # share from which an answer was read, also where the limit cut it off after that
    mean_tokens: float  # of a response


def score(samples: Samples) -> Score:
    """Score one benchmark.

    Raises:
        ValueError: there is no problem or no sample.
    """
    if not samples or not all(samples):
        raise ValueError("nothing to score")
    correct = [[sample.correct for sample in row] for row in samples]
    means = [fmean(row) for row in correct]
    num_samples = min(map(len, samples))
    ks = [2**power for power in range(num_samples.bit_length()) if 2**power < num_samples] + [num_samples]
    return Score(
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
    """Of the mean of independent values; for per-problem means this is the error clustered by problem.

    0.0 for a single value, of which nothing can be said.
    """
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Unbiased probability that at least one of k samples is correct (Chen et al. 2021, arXiv 2107.03374, eq. 1)."""
    return 1.0 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def majority(correct: Sequence[bool], extracted: Sequence[str | None]) -> float:
    """1.0 if the most frequent answer is correct; a tie counts by the share of its answers that are.

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
