"""The health of the examples by origin: how they read, and how likely their tokens are under the policy."""

import re
from collections import Counter
from typing import Any

import numpy as np
import pyarrow.compute as pc

from ossft_ray.common.schema import EXAMPLE_SCHEMA, SCORE_SCHEMA
from ossft_ray.common.types import ORIGINS
from ossft_ray.report.examples import spread
from ossft_ray.run_folder.names import PARTS, SCORE
from ossft_ray.run_folder.reader import RunFolder, columns, read_columns

MAX_PARTS = 200  # of evenly spaced parts the texts are read
# Words by which a text shows doubt, and by which it corrects itself
HEDGES = re.compile(
    r"\b(?:maybe|perhaps|probably|possibly|presumably|apparently|seems?|appears? to|might|could be|likely|unsure"
    r"|not sure|i (?:think|guess|believe|assume|suppose)|if i(?:'m| am) not mistaken)\b",
    re.IGNORECASE,
)
CORRECTIONS = re.compile(
    r"\b(?:wait|hmm+|oops|sorry|actually|scratch that|my mistake|on second thought|no, that"
    r"|let me (?:re|double|try|start|check)[\w-]*"
    r"|(?:re-?check|re-?calculat|re-?consider|correct)(?:e|ing)? (?:that|this|it|myself))\b",
    re.IGNORECASE,
)
_ROWS = columns(EXAMPLE_SCHEMA, "origin", "response", "response_token_ids")
_SCORES = columns(SCORE_SCHEMA, "origin", "source", "reference_logprobs")


def health_rows(run: RunFolder) -> list[dict[str, Any]]:
    """A row for each origin that has examples: `rows`, `tokens` (mean), `hedges` and `corrections` (for 1,000 tokens).

    With scores also `first_logprob`, the mean log p of a response's first token, and `mean_logprob`, of all its tokens,
    in nats.

    Raises:
        InputError: a part cannot be read, or lacks a column.
    """
    sums = {origin: Counter[str]() for origin in ORIGINS}
    parts = run.rewrite.names(PARTS)
    for part in spread(parts, min(len(parts), MAX_PARTS)):
        table = read_columns(run.rewrite, part, _ROWS)
        lengths = pc.fill_null(pc.list_value_length(table["response_token_ids"]), 0)
        texts = (text or "" for text in table["response"].to_pylist())
        for origin, text, length in zip(table["origin"].to_pylist(), texts, lengths.to_pylist(), strict=True):
            if origin in sums:
                found = {"hedges": len(HEDGES.findall(text)), "corrections": len(CORRECTIONS.findall(text))}
                sums[origin].update(rows=1, tokens=length, **found)
    logprobs = _kept_logprobs(run)
    rows = []
    for origin, counts in sums.items():
        if counts["rows"]:
            per_thousand = 1000 / max(1, counts["tokens"])
            row = {"origin": origin, "rows": counts["rows"], "tokens": counts["tokens"] / counts["rows"]}
            row |= {name: counts[name] * per_thousand for name in ("hedges", "corrections")}
            rows.append(row | logprobs.get(origin, {"first_logprob": None, "mean_logprob": None}))
    return rows


def _kept_logprobs(run: RunFolder) -> dict[str, dict[str, float]]:
    """By origin, the mean log p of the kept responses' first tokens, and of all their tokens."""
    folder = run.folder / SCORE
    sums: dict[str, np.ndarray] = {}
    for part in folder.names(PARTS):
        table = read_columns(folder, part, _SCORES)
        table = table.filter(pc.equal(table["source"], "kept"))
        for origin in ORIGINS:
            lists = table.filter(pc.equal(table["origin"], origin))["reference_logprobs"]
            lists = lists.filter(pc.greater(pc.list_value_length(lists), 0))
            firsts, tokens = pc.list_element(lists, 0), pc.list_flatten(lists)
            of_part = (pc.sum(firsts).as_py() or 0.0, len(firsts), pc.sum(tokens).as_py() or 0.0, len(tokens))
            sums[origin] = sums.get(origin, np.zeros(4)) + np.array(of_part)
    return {
        origin: {"first_logprob": float(each[0] / each[1]), "mean_logprob": float(each[2] / each[3])}
        for origin, each in sums.items()
        if each[1]
    }
