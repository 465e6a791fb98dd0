"""`ossft run`: rewrite, score, train, evaluate and report, `[loop] rounds` times, each from the last round's model."""

from ossft_ray.common.uris import join
from ossft_ray.config import Experiment
from ossft_ray.distributed.progress import OnStage, ignore_stages
from ossft_ray.report import report
from ossft_ray.run_folder.names import EVALUATE, REWRITE, SCORE, TRAIN, round_name
from ossft_ray.run_folder.resolved_run import Run
from ossft_ray.stages.check.stage import check
from ossft_ray.stages.evaluate.stage import evaluate
from ossft_ray.stages.rewrite.stage import rewrite
from ossft_ray.stages.score.stage import score
from ossft_ray.stages.train.stage import train


def run(
    experiment: Experiment, on_stage: OnStage = ignore_stages, start_over: bool = False, verbose: bool = False
) -> Experiment:
    """Run the whole job, skipping stages that are complete; returns the last round's experiment.

    Everything is checked before the first stage starts. Each stage ends its actors and their engines' processes before
    the next begins, so that training finds free memory on a single GPU. `on_stage` is called with a stage's name as it
    begins, and returns the `on_progress` for it.

    Raises:
        InputError: the experiment cannot run as it is; says why.
        JobError: a stage failed; the same command resumes.
    """
    this_round = Run(experiment)
    check(this_round)
    for number in range(1, experiment.loop.rounds + 1):
        if number > 1:
            this_round = next_round(experiment, this_round, number)
        pinned = this_round.pinned(refresh=start_over)
        rewrite(pinned, on_stage(REWRITE), start_over, verbose)
        score(pinned, on_stage(SCORE), start_over, verbose)
        train(pinned, on_stage(TRAIN), start_over, verbose)
        evaluate(pinned, on_stage(EVALUATE), start_over, verbose)
        report(this_round.experiment)
    if experiment.loop.rounds > 1:
        report(experiment)  # the first round's page, now with all rounds side by side
    return this_round.experiment


def next_round(first: Experiment, previous: Run, number: int) -> Run:
    """Round `number` of a run: it lives in `round-N/` and starts from the model that the previous round trained."""
    settings = first.run.model_copy(update={"output": join(first.run.output, round_name(number))})
    return Run(previous.of_trained_model.experiment.model_copy(update={"run": settings}))
