"""How a run ends on the terminal: what was kept, base against trained model, where the files are, what to do next."""

from rich.table import Table

from ossft_ray.common.storage import Folder
from ossft_ray.common.uris import join
from ossft_ray.config import Experiment
from ossft_ray.run_folder.names import ACCURACIES, BASE, EVALUATE, MANIFEST, MODEL, REPORT, REWRITE, TRAIN, TRAINED
from ossft_ray.stages.evaluate.accuracies import compare_models, model_accuracies
from ossft_ray.terminal.bars import console
from ossft_ray.terminal.tables import differences_table, origins_table, parroting_lines


def print_summary(first: Experiment, last: Experiment) -> None:
    """Print what the run came to: its first round's data, and its last round's model against the first's base."""
    folder, last_folder = Folder.at(first.run.output), Folder.at(last.run.output)
    console.print()
    manifest = (folder / REWRITE).read_json(MANIFEST)
    console.print(origins_table(manifest))
    for line in parroting_lines(manifest):
        console.print(line, soft_wrap=True)
    console.print()
    base, trained = folder / EVALUATE / BASE, last_folder / EVALUATE / TRAINED
    console.print(comparison_table(base, trained, first.evaluate.benchmarks))
    output = last.run.output
    files = {
        "examples": join(first.run.output, REWRITE),
        "model": join(output, TRAIN, MODEL),
        "scores": join(output, EVALUATE, ACCURACIES),
        "report": join(output, REPORT),
    }
    console.print()
    for name, path in files.items():
        console.print(f"{name:<9} {path}", soft_wrap=True)
    if first.policy.model == "playground":
        console.print(
            "next      your own problems and model: copy one of jobs/configs, then `ossft check`", soft_wrap=True
        )


def comparison_table(base: Folder, trained: Folder, benchmarks: list[str]) -> Table:
    """avg@k of both models in percent, their paired differences with intervals, and what the gain consists of.

    The last row is the mean over benchmarks.

    Raises:
        ValueError: the two models did not answer the same problems.
    """
    scores = {name: model_accuracies(folder, benchmarks) for name, folder in (("base", base), ("trained", trained))}
    return differences_table(scores, "trained", compare_models(base, trained, benchmarks))
