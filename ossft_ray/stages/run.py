"""`ossft run`: rewrite, score, train, evaluate and report, `[loop] rounds` times, each from the model of the last."""

from collections.abc import Callable

from ossft_ray.common.uris import absolute, join
from ossft_ray.config import Experiment
from ossft_ray.distributed.progress import OnProgress
from ossft_ray.report import report
from ossft_ray.run_folder.names import round_name
from ossft_ray.stages.check.stage import check
from ossft_ray.stages.evaluate.stage import evaluate
from ossft_ray.stages.rewrite.stage import rewrite
from ossft_ray.stages.score.stage import score
from ossft_ray.stages.train.stage import train

Stages = Callable[[str], OnProgress]


def run(
    experiment: Experiment, on_stage: Stages | None = None, start_over: bool = False, verbose: bool = False
) -> Experiment:
    """The whole job; stages that are complete are left as they are. Returns the last round's experiment.

    Everything is checked before anything is spent. Each stage ends its actors and their engines' processes before
    the next begins, so that on one GPU training finds the memory free. `on_stage` is called with a stage's name as
    it begins, and gives the `on_progress` for it.

    Raises:
        InputError: the experiment cannot run as it is; says why.
        JobError: a stage failed; the same command goes on where it stopped.
    """
    check(experiment)
    begin: Stages = on_stage or (lambda name: lambda totals: None)
    current = experiment
    for number in range(1, experiment.loop.rounds + 1):
        current = round_experiment(experiment, number)
        rewrite(current, begin("rewrite"), start_over, verbose)
        score(current, begin("score"), start_over, verbose)
        train(current, begin("train"), start_over, verbose)
        evaluate(current, begin("evaluate"), start_over, verbose)
        report(current)
    if current is not experiment:
        report(experiment)  # the first round's page, now with all rounds side by side
    return current


def round_experiment(experiment: Experiment, number: int) -> Experiment:
    """Round 1 is the experiment itself; a later one lives in `round-N/` and starts from the model before."""
    if number == 1:
        return experiment
    before = absolute(join(round_output(experiment.run.output, number - 1), "train", "model"))
    run_settings = experiment.run.model_copy(update={"output": round_output(experiment.run.output, number)})
    policy = experiment.policy.model_copy(
        update={"model": before, "revision": None, "chat_template": None, "lora": None}
    )
    return experiment.model_copy(update={"run": run_settings, "policy": policy})


def round_output(output: str, number: int) -> str:
    return output if number == 1 else join(output, round_name(number))
