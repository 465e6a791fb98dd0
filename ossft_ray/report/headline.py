"""The report's headline: what was kept, how the policy gap and the accuracy changed, and from which data and model."""

from datetime import UTC, datetime
from pathlib import PurePosixPath
from statistics import fmean
from typing import Any

from ossft_ray.common.types import ORIGINS
from ossft_ray.run_folder.names import ACCURACIES, AVERAGE, BASE, MANIFEST, TRAINED
from ossft_ray.run_folder.reader import RunFolder


def headline(run: RunFolder, problem_gaps: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of the headline; None for each that the run does not have yet.

    `kept` holds the share of problems by origin, `gap` is the last of `problem_gaps`, that of all origins, and `gain`
    is an entry of `differences.json` plus the two accuracies. All shares are in 0..1.
    """
    return {
        "kept": _kept_shares(run),
        "gap": problem_gaps[-1] if problem_gaps else None,
        "gain": _gain(run),
        "data": _data_names(run.experiment.get("data", {})),
        "num_problems": run.progress()[0],
        "model": run.experiment.get("policy", {}).get("model"),
        "loss": run.experiment.get("train", {}).get("loss"),
        "seed": run.experiment.get("run", {}).get("seed"),
        "date": _newest_result(run),
    }


def _kept_shares(run: RunFolder) -> dict[str, float] | None:
    counts: dict[str, int] = {name: run.rewrite_counts["origins"].get(name, 0) for name in ORIGINS}
    counts["dropped"] = run.rewrite_counts.get("dropped", 0)
    total = sum(counts.values())
    return {name: count / total for name, count in counts.items() if count} if total else None


def _gain(run: RunFolder) -> dict[str, Any] | None:
    """The trained model's difference from the base model, or else the first other model's."""
    model = TRAINED if TRAINED in run.differences else next(iter(run.differences), None)
    if model is None or not run.differences[model]:
        return None
    by_benchmark = run.differences[model]
    name = AVERAGE if AVERAGE in by_benchmark else next(iter(by_benchmark))
    results = [run.accuracies.get(each, {}) for each in (BASE, model)]
    if name == AVERAGE:
        averages = [fmean(result["avg"] for result in each.values()) if each else None for each in results]
    else:
        averages = [each[name]["avg"] if name in each else None for each in results]
    num_benchmarks = len(by_benchmark) - (AVERAGE in by_benchmark)
    names = {"model": model, "benchmark": name, "num_benchmarks": num_benchmarks}
    return {**by_benchmark[name], **names, "before": averages[0], "after": averages[1]}


def _data_names(data: dict[str, Any]) -> str | None:
    """The names of the data's files or Hub data sets, without folders."""
    path = data.get("path")
    if path is None:
        return None
    names = [PurePosixPath(each).name if "." in each else each for each in ([path] if isinstance(path, str) else path)]
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _newest_result(run: RunFolder) -> str | None:
    """The day (UTC) on which the newest complete stage ended, such as 26 November 2026."""
    files = [file for files in run.files.values() for file in files if file.base_name in (MANIFEST, ACCURACIES)]
    if not files:
        return None
    day = datetime.fromtimestamp(max(file.mtime.timestamp() for file in files), UTC)
    return f"{day.day} {day:%B %Y}"
