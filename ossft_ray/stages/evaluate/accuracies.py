"""Accuracies from the stored samples of an evaluation: each model's, and how it compares with the base model."""

from dataclasses import asdict
from typing import Any

from ossft_ray.common.schema import SAMPLE_SCHEMA
from ossft_ray.common.storage import Folder
from ossft_ray.method.comparison import Comparison, average, compare
from ossft_ray.method.metrics import BenchmarkResult, Sample, benchmark_result
from ossft_ray.run_folder.names import AVERAGE, DIFFERENCES, EVALUATE, PARTS
from ossft_ray.stages.evaluate.benchmark_parts import folder_name

Accuracies = dict[str, dict[str, dict[str, Any]]]  # by model and benchmark


def model_accuracies(model_folder: Folder, benchmarks: list[str]) -> dict[str, dict[str, Any]]:
    """A model's entry of `scores.json`."""
    results = {name: benchmark_result(list(read_samples(model_folder, name).values())) for name in benchmarks}
    return {folder_name(name): _as_json(result) for name, result in results.items()}


def compare_models(before: Folder, after: Folder, benchmarks: list[str]) -> dict[str, dict[str, Any]]:
    """A model's entry of `differences.json`: on each benchmark, and averaged over them if there are several.

    Raises:
        ValueError: the two models did not answer the same problems.
    """
    found = {folder_name(name): _compare_on(before, after, name) for name in benchmarks}
    if len(found) > 1:
        found[AVERAGE] = average(list(found.values()))
    return {name: _as_json(comparison) for name, comparison in found.items()}


def read_differences(output: str) -> Accuracies:
    """The content of a run's `evaluate/differences.json`."""
    differences: Accuracies = (Folder.at(output) / EVALUATE).read_json(DIFFERENCES)
    return differences


def read_samples(model_folder: Folder, benchmark: str) -> dict[str, list[Sample]]:
    """A model's graded samples by problem id, in the order of the benchmark."""
    columns = ["problem_id", "correct", "extracted", "finish_reason", "num_tokens", "vote"]
    table = (model_folder / folder_name(benchmark)).read_tables(PARTS, SAMPLE_SCHEMA).select(columns)
    by_problem: dict[str, list[Sample]] = {}
    for row in table.to_pylist():
        finished = row["finish_reason"] == "stop"
        sample = Sample(row["correct"], row["extracted"], finished, row["num_tokens"] or 0, row["vote"])
        by_problem.setdefault(row["problem_id"], []).append(sample)
    return by_problem


def _compare_on(before: Folder, after: Folder, benchmark: str) -> Comparison:
    old, new = read_samples(before, benchmark), read_samples(after, benchmark)
    if old.keys() != new.keys():
        raise ValueError(f"{folder_name(benchmark)}: {before.path} and {after.path} answered different problems")
    return compare(list(old.values()), [new[problem_id] for problem_id in old])


def _as_json(figures: BenchmarkResult | Comparison) -> dict[str, Any]:
    """The figures under their names in the files; `pass` cannot be the name of a field in Python."""
    return {"pass" if name == "pass_at" else name: value for name, value in asdict(figures).items()}
