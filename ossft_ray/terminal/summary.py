"""The end of a run on the terminal: kept solutions, base against trained model, files, and what to do next."""

from rich.table import Table

from ossft_ray.common.storage import Folder
from ossft_ray.common.uris import join
from ossft_ray.config import Experiment
from ossft_ray.run_folder.names import ACCURACIES, BASE, EVALUATE, MANIFEST, MODEL, REPORT, REWRITE, TRAIN, TRAINED
from ossft_ray.stages.evaluate.accuracies import compare_models, model_accuracies
from ossft_ray.terminal.bars import print_lines
from ossft_ray.terminal.results import differences_table, origins_table


def print_summary(first: Experiment, last: Experiment) -> None:
    """Print a run's results: the first round's data, and the last round's model against the first round's base."""
    folder, last_folder = Folder.at(first.run.output), Folder.at(last.run.output)
    manifest = (folder / REWRITE).read_json(MANIFEST)
    base, trained = folder / EVALUATE / BASE, last_folder / EVALUATE / TRAINED
    comparison = comparison_table(base, trained, first.evaluate.benchmarks)
    output = last.run.output
    files = {
        "examples": join(first.run.output, REWRITE),
        "model": join(output, TRAIN, MODEL),
        "scores": join(output, EVALUATE, ACCURACIES),
        "report": join(output, REPORT),
    }
    if first.policy.model == "playground":
        files["next"] = "your own data and model: copy one of jobs/configs, then `ossft check`"
    print_lines(["", origins_table(manifest, first.rewrite.stages), "", comparison, ""])
    print_lines(f"{name:<9} {text}" for name, text in files.items())


def comparison_table(base: Folder, trained: Folder, benchmarks: list[str]) -> Table:
    """avg@k of two models in percent, from their folders of samples, with the paired differences and their intervals.

    The last row is the mean over benchmarks.

    Raises:
        ValueError: the two models did not answer the same problems.
    """
    results = {name: model_accuracies(folder, benchmarks) for name, folder in ((BASE, base), (TRAINED, trained))}
    return differences_table(results, TRAINED, compare_models(base, trained, benchmarks))
