"""What each command prints when it is done: its tables, where its files are, and the next command."""

from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from ossft_ray.common.uris import join
from ossft_ray.config import Experiment
from ossft_ray.run_folder.names import ACCURACIES, EVALUATE, MODEL, REWRITE, SCORE, TRAIN
from ossft_ray.terminal.bars import print_lines
from ossft_ray.terminal.tables import (
    Results,
    accuracy_table,
    differences_table,
    gap_table,
    origins_table,
    rewriting_costs,
    verify_table,
)

if TYPE_CHECKING:
    from ossft_ray.stages.selftest import Finding
    from ossft_ray.stages.verify import VerifySummary

_WORDS = {True: "passed", False: "FAILED", None: "skipped"}


def print_rewriting(experiment: Experiment, manifest: dict[str, Any]) -> None:
    """The funnel, its costs, and the folder of the examples; `manifest` is that of `rewrite/`."""
    files = f"examples: {join(experiment.run.output, REWRITE)}    next: ossft score"
    print_lines([origins_table(manifest), rewriting_costs(manifest), files])


def print_scoring(experiment: Experiment, manifest: dict[str, Any]) -> None:
    """The policy gap, and the folder of the log-probabilities; `manifest` is that of `score/`."""
    files = f"log-probabilities: {join(experiment.run.output, SCORE)}    next: ossft train"
    print_lines([gap_table(manifest), files])


def print_training(experiment: Experiment, manifest: dict[str, Any]) -> None:
    """Steps, examples and cross-entropy, and the model's folder; `manifest` is that of `train/`."""
    steps = (
        f"{manifest['steps']} steps on {manifest['examples']} examples "
        f"({len(manifest['too_long'])} set aside as too long), cross-entropy {manifest['cross_entropy']:.4f}"
    )
    print_lines([steps, f"model: {join(experiment.run.output, TRAIN, MODEL)}    next: ossft evaluate"])


def print_evaluation(experiment: Experiment, scores: Results, differences: Results) -> None:
    """The accuracies, each model's differences from the base model, and the file of the accuracies.

    `scores` and `differences` are what `evaluate/scores.json` and `evaluate/differences.json` hold.
    """
    lines: list[RenderableType] = [accuracy_table(scores)]
    for model, found in differences.items():
        lines += ["", differences_table(scores, model, found)]
    files = f"scores: {join(experiment.run.output, EVALUATE, ACCURACIES)}    next: ossft report"
    print_lines([*lines, files])


def print_verification(summary: "VerifySummary") -> None:
    """How many rows got which verdict, how fast, and the file of the verdicts."""
    total = (
        f"{summary.num_rows:,} rows, {summary.accuracy:.1%} correct, {summary.num_over_limits:,} over a limit, "
        f"{summary.verdicts_per_second:,.0f} verdicts/s"
    )
    print_lines([verify_table(summary.reasons), total, f"verdicts: {summary.output}"])


def print_finding(finding: "Finding") -> None:
    """One line about one check of the self-test."""
    print_lines([f"{_WORDS[finding.passed]:<8} {finding.name.replace('_', ' ')}: {finding.detail}"])
