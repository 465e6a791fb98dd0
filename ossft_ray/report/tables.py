"""The report's tables as plain values: the funnel, the policy gap, benchmarks, costs and settings."""

import json
from dataclasses import asdict
from itertools import islice, product
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ossft_ray.common.schema import EXAMPLE_SCHEMA, REJECTED_SCHEMA, SCORE_SCHEMA
from ossft_ray.common.types import ORIGINS, PAPERS_STAGES
from ossft_ray.common.verdict import CORRECT
from ossft_ray.method.gap import LogprobSums, ProblemGaps
from ossft_ray.method.metrics import mean_interval
from ossft_ray.run_folder.names import BASE, DROPPED_PARTS, KEPT, PARTS, REJECTED_PARTS, SCORE, TRAINED
from ossft_ray.run_folder.reader import RunFolder, columns, read_columns, scored_responses
from ossft_ray.run_folder.stage_folder import differences

SOURCES = {"expert_original": "expert's original", "kept": "kept response"}
TokenGroups = dict[tuple[str, str], LogprobSums]  # by origin and source
_NUM_REJECTED = 5  # shown of the rejected rows
_NUM_SUSPECTS = 20  # shown of the suspect gold answers
_MAX_VALUE_CHARACTERS = 300


def funnel(run: RunFolder) -> list[dict[str, Any]]:
    """Where the input's rows ended, in the order in which the method tries; empty until the input is read.

    Each step has its `name`, its `colour` on the page, the `count` of rows that end there, and two percentages of all
    rows: those that ended in steps before (`start_percent`), and those that end here (`percent`).
    """
    done, num_problems = run.progress()
    if num_problems is None:
        return []
    counts = run.rewrite_counts
    rejected = (run.rewrite_manifest or run.input_manifest).get("rejected", 0)
    ends = [
        ("self: solved alone", "self", counts["origins"]["self"]),
        ("guided: re-solved after the expert solution", "guided", counts["origins"]["guided"]),
        ("external: re-solved by another model", "external", counts["origins"].get("external", 0)),
        ("expert: expert solution kept", "expert", counts["origins"]["expert"]),
        ("dropped: unsolved, no example", "faint", counts.get("dropped", 0)),
        ("rejected: input row not usable", "faint", rejected),
        ("still to do", "grid", num_problems - done),
    ]
    stages = run.experiment.get("rewrite", {}).get("stages", PAPERS_STAGES)
    steps, before, percent = [], 0, 100 / max(1, num_problems + rejected)
    for name, colour, count in ends:
        if count or colour in (*stages, "expert"):
            step = {"name": name, "colour": colour, "count": count}
            steps.append(step | {"start_percent": before * percent, "percent": count * percent})
        before += count
    return steps


def attempt_rows(run: RunFolder) -> list[dict[str, Any]]:
    """The attempts of each stage by verdict, with the number of problems that `kept` a correct one, and whether some
    problem `has_spare` correct ones.
    """
    counts = run.rewrite_counts
    return [
        {
            "stage": stage,
            "has_spare": reasons.get(CORRECT, 0) > counts["origins"].get(stage, 0),
            "total": sum(reasons.values()),
            "correct": reasons.get(CORRECT, 0),
            "kept": counts["origins"].get(stage, 0),
            "others": {reason: count for reason, count in reasons.items() if reason != CORRECT},
        }
        for stage, reasons in counts.get("reasons", {}).items()
        if reasons
    ]


def pass_shares(run: RunFolder) -> dict[str, np.ndarray]:
    """By stage, the share of correct attempts of each problem that has attempts in it, 0..1."""
    shares: dict[str, list[float]] = {}
    for _, attempts in run.attempts_by_problem():
        for stage in {attempt["stage"] for attempt in attempts}:
            verdicts = [bool(attempt["correct"]) for attempt in attempts if attempt["stage"] == stage]
            shares.setdefault(stage, []).append(sum(verdicts) / len(verdicts))
    return {stage: np.array(shares[stage]) for stage in ORIGINS if stage in shares}


def response_lengths(run: RunFolder) -> dict[str, np.ndarray]:
    """Numbers of tokens of the kept responses by origin, and of the experts' originals that were scored."""
    found: dict[str, list[np.ndarray]] = {}
    for table in run.tables(columns(EXAMPLE_SCHEMA, "origin", "response_token_ids")):
        for origin in ORIGINS:
            lists = table.filter(pc.equal(table["origin"], origin))["response_token_ids"]
            found.setdefault(origin, []).append(_lengths(lists))
    for name in (run.folder / SCORE).names(PARTS):
        table = read_columns(run.folder / SCORE, name, columns(SCORE_SCHEMA, "source", "token_ids"))
        lists = table.filter(pc.equal(table["source"], "expert_original"))["token_ids"]
        found.setdefault("original", []).append(_lengths(lists))
    lengths = {name: np.concatenate(arrays) for name, arrays in found.items()}
    return {name: lengths[name] for name in ("original", *ORIGINS) if name in lengths and len(lengths[name])}


def doubtful_rows(run: RunFolder) -> list[dict[str, Any]]:
    """The first suspect gold answers, by evidence, each with its question."""
    shown = {suspect.problem_id: suspect for suspect in run.suspects.ranked[:_NUM_SUSPECTS]}
    questions: dict[str, str] = {}
    schema = columns(EXAMPLE_SCHEMA, "problem_id", "question")
    for pattern in (PARTS, DROPPED_PARTS) if shown else ():
        for table in run.tables(schema, pattern):
            found = table.filter(pc.is_in(table["problem_id"], pa.array(list(shown), pa.string())))
            questions |= {row["problem_id"]: row["question"] for row in found.to_pylist()}
    return [{**asdict(each), "question": questions.get(each.problem_id, "")} for each in shown.values()]


def rejected_rows(run: RunFolder) -> list[dict[str, Any]]:
    """The first few input rows that were rejected."""
    rows = (row for table in run.tables(REJECTED_SCHEMA, REJECTED_PARTS) for row in table.to_pylist())
    return [row | {"content": str(row["content"])[:_MAX_VALUE_CHARACTERS]} for row in islice(rows, _NUM_REJECTED)]


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


def problem_gaps(run: RunFolder) -> list[dict[str, Any]]:
    """The gap paired by problem, of each origin and of all: `ProblemGaps.figures` with `origin`; empty without scores.

    Raises:
        InputError: a part of `score/` lacks a column or cannot be read.
    """
    if (found := run.score_manifest.get("gap")) is None:  # scoring is under way, or an older version scored
        gaps = ProblemGaps()
        for name in (run.folder / SCORE).names(PARTS):
            schema = columns(SCORE_SCHEMA, "problem_id", "origin", "source", "reference_logprobs")
            gaps.update(scored_responses(read_columns(run.folder / SCORE, name, schema), "reference_logprobs"))
        found = {origin: gaps.figures(origin) for origin in ORIGINS} | {KEPT: gaps.figures()}
    names = {origin: origin for origin in ORIGINS} | {KEPT: "all"}
    return [{"origin": names[name], **figures} for name, figures in found.items() if figures]


def gap_rows(groups: TokenGroups) -> list[dict[str, Any]]:
    """The policy gap by origin, before and after rewriting."""
    return [
        {"origin": origin, "source": words, **groups[origin, source].figures()}
        for origin in (*ORIGINS, "all")
        for source, words in SOURCES.items()
        if (origin, source) in groups
    ]


def round_row(run: RunFolder, gap: list[dict[str, Any]], gaps: list[dict[str, Any]]) -> dict[str, Any]:
    """A round's row in the comparison, given its `gap_rows` and `problem_gaps`; None for each figure not known yet."""
    kept = next((row for row in gap if (row["origin"], row["source"]) == ("all", SOURCES[KEPT])), {})
    counts = run.rewrite_counts
    return {
        "name": run.name,
        "kept": {**counts["origins"], "dropped": counts.get("dropped", 0)},
        "copied": counts.get("copied", 0),
        "gap": gaps[-1]["difference"] if gaps else None,
        "mean_logprob": kept.get("mean_logprob"),
        "effective_sample_size": kept.get("effective_sample_size"),
        "generated": counts.get("generated_tokens"),
        "steps": run.train_manifest.get("steps"),
        "accuracies": {name: result["avg"] for name, result in run.accuracies.get(TRAINED, {}).items()},
    }


def results_by_model(runs: list[RunFolder]) -> dict[str, dict[str, Any]]:
    """The results of the models of all runs by benchmark. A base model that several runs share is listed once."""
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        for model, results in run.accuracies.items():
            if model != BASE or results not in found.values():
                found[f"{model} ({run.name})" if len(runs) > 1 else model] = results
    return found


def benchmark_rows(by_model: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each benchmark and model: values in 0..1, `avg` with its 95% `interval`, `pass` at all samples."""
    rows = []
    for benchmark in dict.fromkeys(benchmark for results in by_model.values() for benchmark in results):
        for number, (model, results) in enumerate(by_model.items()):
            if (result := results.get(benchmark)) is None:
                continue
            row = {"benchmark": benchmark, "model": model, "series": number, **result}
            # computed again, because older runs have no interval or another one
            row["interval"] = tuple(map(float, mean_interval(result["avg"], result["stderr"], result["problems"])))
            row["pass"] = result["pass"][str(result["samples"])]
            rows.append(row)
    return rows


def costs(run: RunFolder) -> list[dict[str, Any]]:
    """Tokens, seconds and GPU-hours of each finished stage; None for what its manifest does not record.

    GPU-hours are the stage's seconds times the GPUs it held: as many as `[resources]` says, else all of the cluster's.
    """
    all_gpus = (run.config.get("machines") or {}).get("gpus")
    resources = run.experiment.get("resources", {})
    policies, trainers = ("num_policies", "gpus_per_policy"), ("num_train_workers", "gpus_per_train_worker")
    stages = {
        "rewrite": (run.rewrite_manifest, policies),
        "score": (run.score_manifest, trainers),
        "train": (run.train_manifest, trainers),
        "evaluate": (run.evaluation_costs, policies),
    }
    rows = []
    for stage, (manifest, keys) in stages.items():
        if not manifest:
            continue
        # rewriting holds its GPUs while engines start, too
        gpus, seconds = all_gpus, manifest.get("phases", {}).get("rewriting", manifest.get("seconds"))
        num_workers, gpus_per_worker = (resources.get(key, "auto") for key in keys)
        if gpus and "auto" not in (num_workers, gpus_per_worker):
            gpus = num_workers * gpus_per_worker
        row = {"stage": stage, "seconds": seconds, "generated": manifest.get("generated_tokens"), "gpus": gpus}
        row["read"] = _tokens_read(stage, manifest)
        row["gpu_hours"] = None if gpus is None or seconds is None else gpus * seconds / 3600
        rows.append(row)
    return rows


def differing_settings(runs: list[RunFolder]) -> list[tuple[str, list[str]]]:
    """The settings that differ between runs, each with its value in every run; `[run] output` is left out."""
    first = runs[0].experiment
    keys = {d.key for run in runs[1:] for d in differences(first, run.experiment)} - {"run.output"}
    return [(key, [_value(run.experiment, key) for run in runs]) for key in sorted(keys)]


def _lengths(lists: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(pc.fill_null(pc.list_value_length(lists), 0).to_numpy())


def _tokens_read(stage: str, manifest: dict[str, Any]) -> int | None:
    if stage == "rewrite":
        return manifest.get("prompt_tokens")
    if stage == "score":
        return sum((manifest.get(name) or {}).get("tokens") or 0 for name in ("kept", "expert_originals"))
    tokens = manifest.get("tokens")
    return tokens * manifest.get("epochs", 1) if tokens is not None else None


def _value(settings: Any, key: str) -> str:
    for name in key.split("."):
        settings = settings.get(name) if isinstance(settings, dict) else None
    text = json.dumps(settings, ensure_ascii=False)
    return text if len(text) <= _MAX_VALUE_CHARACTERS else f"{text[:_MAX_VALUE_CHARACTERS]}…"
