"""The policy gap: statistics of response tokens' log-probabilities under the policy, in nats.

**Paired by problem** (`ProblemGaps`), the figure to report: a response's value is the mean log p of its tokens, so that
every response weighs the same. A problem's difference is the mean value of its kept responses less the value of the
expert's solution to the same problem. The gap is the mean of the differences over problems.

**Weighted by tokens** (`LogprobSums`): sums over all tokens, in which long responses weigh more. Experts' solutions and
kept responses differ in length, so a token-weighted mean treats them differently.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from functools import partial
from statistics import fmean
from typing import Any

import numpy as np
from scipy.special import stdtrit

from ossft_ray.method.metrics import TAIL, standard_error

_LOWEST, _WIDTH = -20.0, 0.25
_NUM_BINS = round(-_LOWEST / _WIDTH)
EDGES = tuple(_LOWEST + _WIDTH * number for number in range(_NUM_BINS + 1))  # nats, up to 0


@dataclass(frozen=True)
class LogprobSums:
    """Sums over tokens, in float64, which add up over any number of parts."""

    tokens: int = 0
    logprob: float = 0.0
    p: float = 0.0
    p_squared: float = 0.0
    # tokens between EDGES; those below the lowest edge count in the first bin
    histogram: np.ndarray = field(default_factory=partial(np.zeros, _NUM_BINS, np.int64))

    @classmethod
    def of(cls, logprobs: np.ndarray) -> "LogprobSums":
        """The sums of tokens' log p, given as an array of any shape."""
        logprob_N = logprobs.astype(np.float64).ravel()
        p_N = np.exp(logprob_N)
        counts, _ = np.histogram(logprob_N.clip(EDGES[0], EDGES[-1]), EDGES)
        return cls(len(logprob_N), float(logprob_N.sum()), float(p_N.sum()), float((p_N**2).sum()), counts)

    def __add__(self, other: "LogprobSums") -> "LogprobSums":
        return LogprobSums(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def figures(self) -> dict[str, Any]:
        """`tokens`, `mean_logprob` (nats), `perplexity`, and the `effective_sample_size` (Σw)² / (N Σw²) of w = p.

        Without tokens, the other three are None.
        """
        if not self.tokens:
            return {"tokens": 0, "mean_logprob": None, "perplexity": None, "effective_sample_size": None}
        mean = self.logprob / self.tokens
        return {
            "tokens": self.tokens,
            "mean_logprob": mean,
            "perplexity": math.exp(min(-mean, 700.0)),  # exp overflows beyond it
            "effective_sample_size": self.p**2 / (self.tokens * self.p_squared) if self.p_squared else 0.0,
        }


@dataclass
class ProblemGaps:
    """The values of each problem's kept and original responses, and the origin of the kept ones.

    Parts add up with `update`. A problem's responses may come in any order, and from several parts.
    """

    origins: dict[str, str] = field(default_factory=dict)  # by problem
    kept: dict[str, list[float]] = field(default_factory=dict)  # by problem: mean log p of each response
    original: dict[str, float] = field(default_factory=dict)

    def update(self, responses: Iterable[tuple[str, str, bool, np.ndarray]]) -> None:
        """Add responses: problem id, origin, whether it is the kept response, and log p of each token.

        A response without tokens says nothing and is left out.
        """
        for problem_id, origin, is_kept, logprob_T in responses:
            if not len(logprob_T):
                continue
            value = float(np.mean(logprob_T, dtype=np.float64))
            self.origins[problem_id] = origin
            if is_kept:
                self.kept.setdefault(problem_id, []).append(value)
            else:
                self.original[problem_id] = value

    def figures(self, origin: str | None = None) -> dict[str, Any] | None:
        """The gap over the problems of one origin, or of all; None if no problem has both responses.

        `problems`; the mean values `before` (experts' solutions) and `after` (kept responses) in nats per token; their
        `difference` with its `stderr` over problems and the 95% interval, `low` and `high`, of Student's t. A single
        problem has no interval.
        """
        pairs = [
            (self.original[problem_id], fmean(values))
            for problem_id, values in self.kept.items()
            if problem_id in self.original and origin in (None, self.origins[problem_id])
        ]
        if not pairs:
            return None
        differences = [after - before for before, after in pairs]
        mean, error = fmean(differences), standard_error(differences)
        margin = -float(stdtrit(len(pairs) - 1, TAIL)) * error if len(pairs) > 1 else None
        return {
            "problems": len(pairs),
            "before": fmean(before for before, _ in pairs),
            "after": fmean(after for _, after in pairs),
            "difference": mean,
            "stderr": error,
            "low": None if margin is None else mean - margin,
            "high": None if margin is None else mean + margin,
        }


def sequence_figures(logprobs: Iterable[np.ndarray]) -> dict[str, Any]:
    """The figures of the authors' `get_probability.py` (github.com/NKU-HLT/Off-Policy-SFT), averaged over sequences.

    For each response of T tokens: the `sequence_logprob` Σ log p, the `mean_logprob` Σ log p / T, the
    `geometric_mean_probability` exp(mean log p) and the `perplexity` exp(-mean log p). Without responses all are None.
    """
    sums_and_means = [(float(each.sum()), float(each.mean())) for each in logprobs if len(each)]
    values = {
        "sequence_logprob": [total for total, _ in sums_and_means],
        "mean_logprob": [mean for _, mean in sums_and_means],
        "geometric_mean_probability": [math.exp(mean) for _, mean in sums_and_means],
        "perplexity": [math.exp(min(-mean, 700.0)) for _, mean in sums_and_means],
    }
    averages = {name: fmean(found) if found else None for name, found in values.items()}
    return {"responses": len(sums_and_means), **averages}
