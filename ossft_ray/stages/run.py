"""`ossft run`: rewrite, score, train, evaluate and report, `[loop] rounds` times, each from the model of the last."""

from collections.abc import Callable

from ossft_ray.common.uris import join
from ossft_ray.config import Experiment
from ossft_ray.distributed.progress import OnProgress
from ossft_ray.report import report
from ossft_ray.run_folder.names import EVALUATE, REWRITE, SCORE, TRAIN, round_name
from ossft_ray.run_folder.resolved_run import Run
from ossft_ray.stages.check.stage import check
from ossft_ray.stages.evaluate.models import trained_policy
from ossft_ray.stages.evaluate.stage import evaluate
from ossft_ray.stages.rewrite.stage import rewrite
from ossft_ray.stages.score.stage import score
from ossft_ray.stages.train.stage import train

OnStage = Callable[[str], OnProgress]


def run(
    experiment: Experiment, on_stage: OnStage | None = None, start_over: bool = False, verbose: bool = False
) -> Experiment:
    """Run the whole job, skipping stages that are complete; returns the last round's experiment.

    Everything is checked before the first stage starts. Each stage ends its actors and their engines' processes before
    the next begins, so that training finds free memory on a single GPU. `on_stage` is called with a stage's name as it
    begins, and returns the `on_progress` for it.

    Raises:
        InputError: the experiment cannot run as it is; says why.
        JobError: a stage failed; the same command resumes.
    """
    check(experiment)
    begin: OnStage = on_stage or (lambda name: lambda totals: None)
    current = experiment
    for number in range(1, experiment.loop.rounds + 1):
        current = experiment if number == 1 else next_round(experiment, current, number)
        this_round = Run.of(current, refresh_revision=start_over)
        rewrite(this_round, begin(REWRITE), start_over, verbose)
        score(this_round, begin(SCORE), start_over, verbose)
        train(this_round, begin(TRAIN), start_over, verbose)
        evaluate(this_round, begin(EVALUATE), start_over, verbose)
        report(current)
    if current is not experiment:
        report(experiment)  # the first round's page, now with all rounds side by side
    return current


def next_round(first: Experiment, previous: Experiment, number: int) -> Experiment:
    """Round `number` of a run: it lives in `round-N/` and starts from the model that the previous round trained."""
    settings = first.run.model_copy(update={"output": join(first.run.output, round_name(number))})
    return first.model_copy(update={"run": settings, "policy": trained_policy(previous)})
