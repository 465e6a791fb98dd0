"""Log-probabilities of a run's scored tokens under the policy before training, added up by origin and source."""

from itertools import product

import pyarrow.compute as pc

from ossft_ray.common.schema import SCORE_SCHEMA
from ossft_ray.common.types import ORIGINS
from ossft_ray.method.gap import LogprobSums
from ossft_ray.run_folder.names import PARTS, SCORE
from ossft_ray.run_folder.reader import RunFolder, columns, read_columns

SOURCES = {"expert_original": "expert's original", "kept": "kept response"}
TokenGroups = dict[tuple[str, str], LogprobSums]  # by origin and source


def token_groups(run: RunFolder) -> TokenGroups:
    """The sums over a run's scored tokens by origin and source, and of all origins under `all`.

    An expert's original counts under the origin of the response kept for its problem. Groups without tokens are left
    out.

    Raises:
        InputError: a part of `score/` lacks a column or cannot be read.
    """
    folder = run.folder / SCORE
    groups: TokenGroups = {}
    for name in folder.names(PARTS):
        table = read_columns(folder, name, columns(SCORE_SCHEMA, "origin", "source", "reference_logprobs"))
        for origin, source in product(ORIGINS, SOURCES):
            rows = table.filter(pc.and_(pc.equal(table["origin"], origin), pc.equal(table["source"], source)))
            sums = LogprobSums.of(pc.list_flatten(rows["reference_logprobs"]).to_numpy())
            for group in (origin, "all") if sums.tokens else ():
                groups[group, source] = groups.get((group, source), LogprobSums()) + sums
    return groups
