"""What each rule of `[train] select` does to a run's training rows: their number, gap and effective sample size.

    python benchmarks/selection.py --config EXPERIMENT.toml [--set SECTION.KEY=VALUE]

The run must be rewritten with `[rewrite] keep_per_problem` above 1, and scored. Nothing is trained. Prints a table and,
as its last line, one JSON object.
"""

import argparse
import json
from typing import Any, get_args

import numpy as np
from rich.console import Console

from ossft_ray.common.types import ORIGINS
from ossft_ray.config import Experiment, load_experiment
from ossft_ray.method.gap import LogprobSums
from ossft_ray.run_folder.reader import examples_folder
from ossft_ray.run_folder.resolved_run import Run
from ossft_ray.stages.train.reference_scores import score_folder
from ossft_ray.stages.train.selection import Select
from ossft_ray.stages.train.training_examples import load_training_examples
from ossft_ray.terminal.results import plain_table


def measure(experiment: Experiment, select: str) -> dict[str, Any]:
    """The figures of the rows that one rule selects."""
    # the loss `iw_sft` reads the log-probabilities of the scores, so they come with the examples
    chosen = experiment.train.model_copy(update={"select": select, "loss": "iw_sft", "holdout": 0.0})
    run = Run(experiment.model_copy(update={"train": chosen}))
    source = examples_folder(run.experiment)
    loaded = load_training_examples(source, run.chat, run.experiment, score_folder(run, source))
    examples = loaded.examples
    assert examples.reference_logprobs is not None
    is_own_N = np.repeat(examples.origins != ORIGINS.index("expert"), examples.response_lengths)
    found: dict[str, Any] = {"rows": len(examples), "left_out": loaded.num_not_selected}
    for name, logprobs in (("all", examples.reference_logprobs), ("own", examples.reference_logprobs[is_own_N])):
        figures = LogprobSums.of(logprobs).figures()
        found[name] = {key: figures[key] for key in ("tokens", "mean_logprob", "effective_sample_size")}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--set", action="append", default=[])
    arguments = parser.parse_args()
    experiment = load_experiment(arguments.config, arguments.set)
    measured = {select: measure(experiment, select) for select in get_args(Select)}
    figures = ("tokens", "mean\nlog p", "effective\nsample size")
    table = plain_table("select", "rows", "left\nout", *figures, "own\ntokens", *figures[1:])
    for select, found in measured.items():
        cells = [f"{found['rows']:,}", f"{found['left_out']:,}"]
        for of_rows in (found["all"], found["own"]):
            cells.append(f"{of_rows['tokens']:,}")
            cells += [f"{of_rows[key]:.4f}" for key in ("mean_logprob", "effective_sample_size")]
        table.add_row(select, *cells)
    console = Console(highlight=False)
    console.print(table)
    console.print("own: of the rows that the policy wrote (self and guided)")
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
