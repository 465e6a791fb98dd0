"""The report's tables, as plain values: the funnel, the policy gap, benchmarks, costs and settings."""

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from ossft_ray.common.schema import EXAMPLE_SCHEMA, REJECTED_SCHEMA
from ossft_ray.common.types import ORIGINS
from ossft_ray.report.figures import CONFIDENCE, Bar
from ossft_ray.report.logprobs import SOURCES, Groups
from ossft_ray.run_folder.names import DROPPED_PARTS, INPUT_MANIFEST, REJECTED_PARTS, REWRITE
from ossft_ray.run_folder.rounds import RunFiles, columns, read_columns
from ossft_ray.run_folder.stage_folder import differences

_NUM_REJECTED = 5  # shown of the rejected rows
_MAX_VALUE_CHARACTERS = 300


@dataclass(frozen=True)
class Step:
    """A step of the funnel: `count` input rows end here, after `before` that ended earlier, of `total`."""

    name: str
    kind: str  # a colour of the page
    count: int
    before: int
    total: int

    @property
    def percent(self) -> float:
        return 100 * self.count / self.total if self.total else 0.0

    @property
    def start_percent(self) -> float:
        return 100 * self.before / self.total if self.total else 0.0


def funnel(run: RunFiles) -> list[Step]:
    """Where the input's rows ended, in the order in which the method tries; empty where no rewriting has begun."""
    if run.num_problems is None:
        return []
    counts = run.origin_counts
    if run.rewriting:
        dropped, rejected = run.rewriting.get("dropped", 0), run.rewriting["rejected"]
    else:
        folder = run.folder / REWRITE
        dropped = sum(len(folder.read_table(name)) for name in folder.names(DROPPED_PARTS))
        rejected = folder.read_json(INPUT_MANIFEST).get("rejected", 0)
    still_open = run.num_problems - sum(counts.values()) - dropped if not run.rewriting else 0
    ends = [
        ("self: solved alone", "self", counts["self"]),
        ("guided: re-solved after the expert solution", "guided", counts["guided"]),
        ("expert: expert solution kept", "expert", counts["expert"]),
        ("dropped: unsolved, no example", "faint", dropped),
        ("rejected: input row not usable", "faint", rejected),
        ("still to do", "grid", still_open),
    ]
    steps, before, total = [], 0, run.num_problems + rejected
    for name, kind, count in ends:
        if count or kind in ORIGINS:
            steps.append(Step(name, kind, count, before, total))
        before += count
    return steps


def attempt_reasons(run: RunFiles) -> dict[str, dict[str, int]]:
    """Attempts by stage and reason, from the manifest or, while there is none, from the parts so far."""
    if run.rewriting:
        found: dict[str, dict[str, int]] = run.rewriting.get("reasons", {})
        return {stage: reasons for stage, reasons in found.items() if reasons}
    reasons: dict[str, Counter[str]] = {}
    for part, _, _ in run.origins:
        table = read_columns(run.folder / REWRITE, part, columns(EXAMPLE_SCHEMA, "attempts"))
        for attempt in pc.list_flatten(table["attempts"]).to_pylist():
            reasons.setdefault(attempt["stage"], Counter())[attempt["reason"]] += 1
    return {stage: dict(counts.most_common()) for stage, counts in reasons.items()}


def rejected_rows(run: RunFiles) -> list[dict[str, Any]]:
    """The first few input rows that were refused."""
    folder = run.folder / REWRITE
    rows: list[dict[str, Any]] = []
    for name in folder.names(REJECTED_PARTS):
        rows += read_columns(folder, name, REJECTED_SCHEMA).slice(0, _NUM_REJECTED - len(rows)).to_pylist()
        if len(rows) == _NUM_REJECTED:
            break
    return [row | {"content": str(row["content"])[:_MAX_VALUE_CHARACTERS]} for row in rows]


def gap_rows(run: RunFiles, groups: Groups) -> list[dict[str, Any]]:
    """The policy gap by origin, before and after rewriting: from SCORE rows, or the manifest where those are gone."""
    if groups:
        return [
            {"origin": origin, "source": words, **groups[origin, source].figures()}
            for origin in (*ORIGINS, "all")
            for source, words in SOURCES.items()
            if (origin, source) in groups
        ]
    named = {"expert_originals": ("all", SOURCES["expert_original"]), "kept": ("all", SOURCES["kept"])}
    named |= {origin: (origin, SOURCES["kept"]) for origin in ORIGINS}
    scoring = run.scoring or {}
    return [
        {"origin": origin, "source": source, **scoring[name]}
        for name, (origin, source) in named.items()
        if scoring.get(name, {}).get("tokens")
    ]


@dataclass(frozen=True)
class Series:
    """A model's scores, as one colour of the benchmark figure."""

    name: str
    scores: dict[str, dict[str, Any]]


def series(runs: list[RunFiles]) -> list[Series]:
    """The models of all runs; a base that several runs began from, or that a round before made, stands there once."""
    found: list[Series] = []
    for run in runs:
        for model, scores in (run.scores or {}).items():
            if model != "base" or not any(_figures(scores) == _figures(known.scores) for known in found):
                found.append(Series(f"{model} ({run.name})" if len(runs) > 1 else model, scores))
    return found


def _figures(scores: dict[str, dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [each[key] for key in ("avg", "stderr", "problems", "samples")] for name, each in scores.items()}


def benchmark_rows(all_series: list[Series]) -> list[dict[str, Any]]:
    """A row a benchmark and model, values in 0..1, with the ends of the 95% interval of `avg`."""
    names = list(dict.fromkeys(name for each in all_series for name in each.scores))
    rows = []
    for name in names:
        for number, each in enumerate(all_series):
            if (score := each.scores.get(name)) is None:
                continue
            margin = CONFIDENCE * score["stderr"]
            interval = (max(0.0, score["avg"] - margin), min(1.0, score["avg"] + margin))
            rows.append({"benchmark": name, "model": each.name, "series": number, "interval": interval, **score})
    return rows


def benchmark_bars(rows: list[dict[str, Any]]) -> list[Bar]:
    return [Bar(row["benchmark"], row["series"], row["avg"], row["stderr"]) for row in rows]


def costs(run: RunFiles) -> list[dict[str, Any]]:
    """Tokens, seconds and GPU-hours of each finished stage; None for what its manifest does not tell.

    GPU-hours are the stage's seconds times the GPUs it held: those of `[resources]`, where that is settled by hand,
    else all of the cluster's.
    """
    machines = run.config.get("machines") or {}
    resources = run.experiment.get("resources", {})
    rows = []
    for name, manifest, count, each in (
        ("rewrite", run.rewriting, "num_policies", "gpus_per_policy"),
        ("score", run.scoring, "num_train_workers", "gpus_per_train_worker"),
        ("train", run.training, "num_train_workers", "gpus_per_train_worker"),
        ("evaluate", run.evaluation, "num_policies", "gpus_per_policy"),
    ):
        if manifest is None:
            continue
        gpus = machines.get("gpus")
        if gpus and not isinstance(resources.get(count, ""), str) and not isinstance(resources.get(each, ""), str):
            gpus = resources[count] * resources[each]
        seconds = manifest.get("seconds")
        rows.append(
            {
                "stage": name,
                "seconds": seconds,
                "generated": manifest.get("generated_tokens"),
                "read": manifest.get("prompt_tokens") if name == "rewrite" else _tokens(name, manifest),
                "gpus": gpus,
                "gpu_hours": gpus * seconds / 3600 if gpus is not None and seconds is not None else None,
            }
        )
    return rows


def differing_settings(runs: list[RunFiles]) -> list[tuple[str, list[str]]]:
    """The settings in which runs differ, each with its value in every run; `[run] output` left out."""
    first = runs[0].experiment
    keys = {d.key for run in runs[1:] for d in differences(first, run.experiment)} - {"run.output"}
    return [(key, [_value(run.experiment, key) for run in runs]) for key in sorted(keys)]


def _tokens(stage: str, manifest: dict[str, Any]) -> int | None:
    if stage == "score":
        groups = [manifest.get(name) or {} for name in ("kept", "expert_originals")]
        return sum(group.get("tokens") or 0 for group in groups)
    tokens = manifest.get("tokens")
    return tokens * manifest.get("epochs", 1) if tokens is not None else None


def _value(settings: Any, key: str) -> str:
    for name in key.split("."):
        settings = settings.get(name) if isinstance(settings, dict) else None
    text = json.dumps(settings, ensure_ascii=False)
    return text if len(text) <= _MAX_VALUE_CHARACTERS else f"{text[:_MAX_VALUE_CHARACTERS]}…"
