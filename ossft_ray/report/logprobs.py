"""How likely does the policy find each response token? Sums and histograms of a run's SCORE rows, part by part."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.compute as pc

from ossft_ray.common.schema import SCORE_SCHEMA
from ossft_ray.common.types import ORIGINS
from ossft_ray.method import gap
from ossft_ray.method.gap import LogprobSums
from ossft_ray.run_folder.names import PARTS, SCORE
from ossft_ray.run_folder.rounds import RunFiles, columns, read_columns

_BINS = 2  # of those in which tokens are counted, drawn as one
EDGES = np.array(gap.EDGES[::_BINS])  # nats; the first bin holds all that is less likely
SOURCES = {"expert_original": "expert's original", "kept": "kept response"}
Groups = dict[tuple[str, str], "TokenGroup"]


@dataclass
class TokenGroup:
    """Tokens of one origin and source, over all parts."""

    responses: int = 0
    sums: LogprobSums = field(default_factory=LogprobSums)

    def add(self, logprob_N: np.ndarray, num_responses: int) -> None:
        self.responses += num_responses
        self.sums += LogprobSums.of(logprob_N)

    @property
    def counts(self) -> np.ndarray:
        """Tokens between EDGES."""
        return self.sums.histogram.reshape(-1, _BINS).sum(1)

    def figures(self) -> dict[str, Any]:
        """`responses`, and the figures of `LogprobSums`."""
        return {"responses": self.responses, **self.sums.figures()}


def token_groups(run: RunFiles) -> Groups:
    """The run's scored tokens by (origin, source), and under the origin `all`; groups without tokens are left out.

    An expert's original counts under the origin of what was kept for its problem.

    Raises:
        InputError: a part of `score/` lacks a column or cannot be read.
    """
    folder = run.folder / SCORE
    groups: Groups = {}
    for name in folder.names(PARTS):
        table = read_columns(folder, name, columns(SCORE_SCHEMA, "origin", "source", "reference_logprobs"))
        for origin in ORIGINS:
            for source in SOURCES:
                chosen = table.filter(pc.and_(pc.equal(table["origin"], origin), pc.equal(table["source"], source)))
                logprob_N = pc.list_flatten(chosen["reference_logprobs"]).to_numpy()
                for group in (origin, "all") if len(logprob_N) else ():
                    groups.setdefault((group, source), TokenGroup()).add(logprob_N, len(chosen))
    return groups
