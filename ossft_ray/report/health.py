"""The health of the examples by origin: how they read, and how likely their tokens are under the policy."""

import re
from collections import Counter
from typing import Any

import numpy as np
import pyarrow.compute as pc

from ossft_ray.common.schema import EXAMPLE_SCHEMA, SCORE_SCHEMA
from ossft_ray.common.types import ORIGINS
from ossft_ray.method.acceptance import copied_share
from ossft_ray.method.steps import equations
from ossft_ray.report.examples import spread
from ossft_ray.run_folder.names import PARTS, SCORE
from ossft_ray.run_folder.reader import RunFolder, columns, read_columns

MAX_ROWS = 20_000  # rows whose texts are read
_MAX_PARTS = 200  # evenly spaced parts that hold them
_COPIED_NGRAM = 8  # for a run without config.json
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
_WORDS = {"hedges": HEDGES, "corrections": CORRECTIONS}
_ROWS = columns(EXAMPLE_SCHEMA, "origin", "response", "expert_solution", "response_token_ids")
_SCORES = columns(SCORE_SCHEMA, "origin", "source", "reference_logprobs")


def health_rows(run: RunFolder) -> list[dict[str, Any]]:
    """A row for each origin that has examples: `rows`, and means over them. At most `MAX_ROWS` are read, evenly spaced.

    `tokens` is the length; `hedges` and `corrections` are numbers per 1,000 tokens; `copied` is the share of the
    response's words in runs that the expert's solution contains too, and `contained` the share of the solution's words
    in runs that the response contains too, both 0..1. `false` is the share of the equations between numbers that are
    false, and `unread` the share of the equals signs outside such equations; None without any. With scores, also
    `first_logprob`, the mean log p of a response's first token, and `mean_logprob`, of all its tokens, in nats.

    Raises:
        InputError: a part cannot be read, or lacks a column.
    """
    ngram = run.experiment.get("rewrite", {}).get("guided_alignment", {}).get("copied_ngram", _COPIED_NGRAM)
    sums = {origin: Counter[str]() for origin in ORIGINS}
    parts = run.rewrite.names(PARTS)
    chosen = spread(parts, min(len(parts), _MAX_PARTS))
    for part in chosen:
        table = read_columns(run.rewrite, part, _ROWS).slice(0, MAX_ROWS // len(chosen))
        for row in table.to_pylist():
            if row["origin"] in sums:
                sums[row["origin"]] += _figures(row["response"] or "", row["expert_solution"] or "", ngram)
                sums[row["origin"]] += Counter(rows=1, tokens=len(row["response_token_ids"] or []))
    logprobs = _kept_logprobs(run)
    rows = []
    for origin, counts in sums.items():
        if num_rows := counts["rows"]:
            row = {"origin": origin, "rows": num_rows}
            row |= {name: counts[name] / num_rows for name in ("tokens", "copied", "contained")}
            row |= {name: 1000 * counts[name] / max(1, counts["tokens"]) for name in ("hedges", "corrections")}
            row["false"] = counts["false"] / counts["equations"] if counts["equations"] else None
            num_signs = counts["equations"] + counts["unread"]
            row["unread"] = counts["unread"] / num_signs if num_signs else None
            rows.append(row | logprobs.get(origin, {"first_logprob": None, "mean_logprob": None}))
    return rows


def _figures(response: str, solution: str, ngram: int) -> Counter[str]:
    counts: dict[str, Any] = {name: len(words.findall(response)) for name, words in _WORDS.items()}
    found = [equation.is_true for equation in equations(response)]
    counts |= {"equations": len(found), "false": found.count(False)}
    counts["unread"] = max(0, response.count("=") - len(found))
    counts |= {"copied": copied_share(response, solution, ngram), "contained": copied_share(solution, response, ngram)}
    return Counter(counts)


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
