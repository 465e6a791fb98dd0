"""How likely does the policy find each response token? Sums and histograms of a run's SCORE rows, part by part."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.compute as pc

from ossft_ray.report.run_files import ORIGINS, PARTS, RunFiles, columns, read_columns
from ossft_ray.schema import SCORE

EDGES = np.linspace(-20.0, 0.0, 41)  # nats; the first bin holds all that is less likely
SOURCES = {"expert_original": "expert's original", "kept": "kept response"}
Groups = dict[tuple[str, str], "TokenGroup"]


@dataclass
class TokenGroup:
    """Tokens of one origin and source, in sums that add up over parts."""

    responses: int = 0
    tokens: int = 0
    logprob: float = 0.0  # nats
    p: float = 0.0
    p_squared: float = 0.0
    counts: np.ndarray = field(default_factory=lambda: np.zeros(len(EDGES) - 1, dtype=np.int64))

    def add(self, logprob_N: np.ndarray, num_responses: int) -> None:
        logprob_N = logprob_N.astype(np.float64)
        p_N = np.exp(logprob_N)
        self.responses += num_responses
        self.tokens += len(logprob_N)
        self.logprob += float(logprob_N.sum())
        self.p += float(p_N.sum())
        self.p_squared += float((p_N**2).sum())
        self.counts += np.histogram(logprob_N.clip(EDGES[0], EDGES[-1]), EDGES)[0]

    def figures(self) -> dict[str, Any]:
        """`tokens`, `mean_logprob` (nats), `perplexity`, `effective_sample_size`: (Σp)² / (N Σp²), in 0..1."""
        mean = self.logprob / self.tokens
        return {
            "responses": self.responses,
            "tokens": self.tokens,
            "mean_logprob": mean,
            "perplexity": math.exp(min(-mean, 700.0)),
            "effective_sample_size": self.p**2 / (self.tokens * self.p_squared) if self.p_squared else 0.0,
        }


def token_groups(run: RunFiles) -> Groups:
    """The run's scored tokens by (origin, source), and under the origin `all`; groups without tokens are left out.

    An expert's original counts under the origin of what was kept for its problem.

    Raises:
        InputError: a part of `score/` lacks a column or cannot be read.
    """
    folder = run.folder / "score"
    groups: Groups = {}
    for name in folder.names(PARTS):
        table = read_columns(folder, name, columns(SCORE, "origin", "source", "reference_logprobs"))
        for origin in ORIGINS:
            for source in SOURCES:
                chosen = table.filter(pc.and_(pc.equal(table["origin"], origin), pc.equal(table["source"], source)))
                logprob_N = pc.list_flatten(chosen["reference_logprobs"]).to_numpy()
                for group in (origin, "all") if len(logprob_N) else ():
                    groups.setdefault((group, source), TokenGroup()).add(logprob_N, len(chosen))
    return groups
