"""How a run ends on the terminal: what was kept, base against trained model, where the files are, what to do next."""

import math
from statistics import fmean
from typing import Any

from rich.table import Table

from ossft_ray.config import Experiment
from ossft_ray.method.metrics import paired_difference
from ossft_ray.stages.evaluate import folder_name, read_samples
from ossft_ray.storage import MANIFEST, Folder
from ossft_ray.terminal import console, origins_table, parroting_lines


def print_summary(first: Experiment, last: Experiment) -> None:
    """Print what the run came to: its first round's data, and its last round's model against the first's base."""
    folder, last_folder = Folder.at(first.run.output), Folder.at(last.run.output)
    console.print()
    manifest = (folder / "rewrite").read_json(MANIFEST)
    console.print(origins_table(manifest))
    for line in parroting_lines(manifest):
        console.print(line, soft_wrap=True)
    console.print()
    base, trained = folder / "evaluate" / "base", last_folder / "evaluate" / "trained"
    console.print(comparison_table(base, trained, first.evaluate.benchmarks, first.evaluate.num_samples))
    output = last.run.output
    files = {
        "examples": f"{first.run.output}/rewrite",
        "model": f"{output}/train/model",
        "scores": f"{output}/evaluate/scores.json",
        "report": f"{output}/report.html",
    }
    console.print()
    for name, path in files.items():
        console.print(f"{name:<9} {path}", soft_wrap=True)
    if first.policy.model == "playground":
        console.print(
            "next      your own problems and model: copy one of jobs/configs, then `ossft check`", soft_wrap=True
        )


def comparison_table(base: Folder, trained: Folder, benchmarks: list[str], num_samples: int) -> Table:
    """avg@k of both models in percent, and their paired differences, each with its standard error.

    The last row is the mean over benchmarks; its errors are those of independent benchmarks.
    """
    table = Table(box=None, pad_edge=False)
    table.add_column(f"avg@{num_samples}, %")
    for heading in ("base", "trained", "difference ± standard error"):
        table.add_column(heading, justify="right")
    rows = [compare(base, trained, benchmark) for benchmark in benchmarks]
    for benchmark, row in zip(benchmarks, rows, strict=True):
        table.add_row(benchmark, *_cells(row))
    if len(rows) > 1:
        means = {key: fmean(row[key] for row in rows) for key in ("base", "trained", "difference")}
        errors = {
            key: math.sqrt(sum(row[key] ** 2 for row in rows)) / len(rows)
            for key in ("base_error", "trained_error", "difference_error")
        }
        table.add_section()
        table.add_row("average", *_cells(means | errors), style="bold")
    return table


def compare(base: Folder, trained: Folder, benchmark: str) -> dict[str, float]:
    """Means and standard errors on one benchmark, in 0..1; the difference is paired by problem.

    Raises:
        ValueError: the two models did not answer the same problems.
    """
    before, after = read_samples(base, benchmark), read_samples(trained, benchmark)
    if before.keys() != after.keys():
        raise ValueError(f"{folder_name(benchmark)}: base and trained were scored on different problems")
    base_means, trained_means = (
        [fmean(row["correct"] for row in rows[name]) for name in before] for rows in (before, after)
    )
    zeros = [0.0] * len(base_means)
    columns: dict[str, Any] = {}
    for key, (old, new) in {
        "base": (zeros, base_means),
        "trained": (zeros, trained_means),
        "difference": (base_means, trained_means),
    }.items():
        columns[key], columns[f"{key}_error"] = paired_difference(old, new)
    return columns


def _cells(row: dict[str, float]) -> list[str]:
    return [
        f"{100 * row['base']:.1f} ± {100 * row['base_error']:.1f}",
        f"{100 * row['trained']:.1f} ± {100 * row['trained_error']:.1f}",
        f"{100 * row['difference']:+.1f} ± {100 * row['difference_error']:.1f}",
    ]
