"""The policy gap: figures of the log-probabilities of responses' tokens under the policy, in nats."""

import math
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

import numpy as np

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
