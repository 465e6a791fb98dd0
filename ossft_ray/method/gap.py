"""How far are responses from the policy? Figures of their tokens' log-probabilities, in nats: the policy gap."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_LOWEST, _WIDTH = -20.0, 0.25
EDGES = tuple(_LOWEST + _WIDTH * number for number in range(round(-_LOWEST / _WIDTH) + 1))  # nats, up to 0


def _no_counts() -> np.ndarray:
    return np.zeros(len(EDGES) - 1, dtype=np.int64)


@dataclass(frozen=True)
class LogprobSums:
    """Sums over tokens, in float64, that add up over any number of parts."""

    tokens: int = 0
    logprob: float = 0.0
    p: float = 0.0
    p_squared: float = 0.0
    histogram: np.ndarray = field(default_factory=_no_counts)  # tokens between EDGES; the first bin holds all below too

    @classmethod
    def of(cls, logprobs: np.ndarray) -> "LogprobSums":
        """Of log p of tokens, in any shape."""
        logprob_N = logprobs.astype(np.float64).ravel()
        p_N = np.exp(logprob_N)
        counts, _ = np.histogram(logprob_N.clip(EDGES[0], EDGES[-1]), EDGES)
        return cls(len(logprob_N), float(logprob_N.sum()), float(p_N.sum()), float((p_N**2).sum()), counts)

    def __add__(self, other: "LogprobSums") -> "LogprobSums":
        return LogprobSums(
            self.tokens + other.tokens,
            self.logprob + other.logprob,
            self.p + other.p,
            self.p_squared + other.p_squared,
            self.histogram + other.histogram,
        )

    def figures(self) -> dict[str, Any]:
        """`tokens`, `mean_logprob` (nats), `perplexity`, and the `effective_sample_size` (Σw)² / (N Σw²) of w = p.

        All but `tokens` are None where there is no token.
        """
        if not self.tokens:
            return {"tokens": 0, "mean_logprob": None, "perplexity": None, "effective_sample_size": None}
        mean = self.logprob / self.tokens
        return {
            "tokens": self.tokens,
            "mean_logprob": mean,
            "perplexity": math.exp(min(-mean, 700.0)),  # beyond it there is no float
            "effective_sample_size": self.p**2 / (self.tokens * self.p_squared) if self.p_squared else 0.0,
        }
