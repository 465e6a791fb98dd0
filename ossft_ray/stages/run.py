"""`ossft run`: rewrite, score, train, evaluate and report, `[loop] rounds` times, each from the last round's model."""

import os

from ossft_ray.common.uris import join
from ossft_ray.config import Experiment
from ossft_ray.distributed.progress import OnStage, ignore_stages
from ossft_ray.distributed.resources import check_training_memory
from ossft_ray.distributed.session import start_ray
from ossft_ray.report import report
from ossft_ray.run_folder.names import BASE, EVALUATE, INPUTS, REWRITE, SCORE, TRAIN, round_name
from ossft_ray.run_folder.reader import read_json
from ossft_ray.run_folder.resolved_run import Run
from ossft_ray.stages.check.stage import check
from ossft_ray.stages.evaluate.stage import evaluate
from ossft_ray.stages.rewrite.stage import rewrite
from ossft_ray.stages.score.stage import score
from ossft_ray.stages.train.stage import train

# By stage: the folder that records its inputs, and the digest of the round's policy among them
_BASE_MODEL = {
    REWRITE: (REWRITE, "policy_files"),
    SCORE: (SCORE, "model"),
    TRAIN: (TRAIN, "model"),
    EVALUATE: (f"{EVALUATE}/{BASE}", "policy_files"),
}


def run(
    experiment: Experiment, on_stage: OnStage = ignore_stages, start_over: bool = False, verbose: bool = False
) -> Experiment:
    """Run the whole job, skipping stages that are complete; returns the last round's experiment.

    What is outdated is done again: scores, models and evaluations of examples that have changed since.

    Everything is checked before the first stage starts. Each stage ends its actors and their engines' processes before
    the next begins, so that training finds free memory on a single GPU. `on_stage` is called with a stage's name as it
    begins, and returns the `on_progress` for it.

    Raises:
        InputError: the experiment cannot run as it is; says why.
        JobError: a stage failed; the same command resumes.
    """
    this_round = Run(experiment)
    check(this_round)
    if os.environ.get("RAY_ADDRESS"):  # the cluster's GPUs are known only there
        start_ray(experiment, verbose)
        check_training_memory(experiment)
    for number in range(1, experiment.loop.rounds + 1):
        if number > 1:
            this_round = next_round(experiment, this_round, number)
        pinned = this_round.pinned(refresh=start_over)
        again = {stage: start_over or (number > 1 and _is_of_other_model(pinned, stage)) for stage in _BASE_MODEL}
        rewrite(pinned, on_stage(REWRITE), again[REWRITE], verbose)
        score(pinned, on_stage(SCORE), again[SCORE], verbose)
        train(pinned, on_stage(TRAIN), again[TRAIN], verbose, redo_outdated=True)
        evaluate(pinned, on_stage(EVALUATE), again[EVALUATE], verbose)
        report(this_round.experiment)
    if experiment.loop.rounds > 1:
        report(experiment)  # the first round's page, now with all rounds side by side
    return this_round.experiment


def _is_of_other_model(run: Run, stage: str) -> bool:
    """Whether a stage's output was made with another model than the one the previous round trained."""
    folder, key = _BASE_MODEL[stage]
    recorded = read_json(run.folder, f"{folder}/{INPUTS}")
    return bool(recorded) and recorded.get(key) != run.policy_digest


def next_round(first: Experiment, previous: Run, number: int) -> Run:
    """Round `number` of a run: it lives in `round-N/` and starts from the model that the previous round trained."""
    settings = first.run.model_copy(update={"output": join(first.run.output, round_name(number))})
    return Run(previous.of_trained_model.experiment.model_copy(update={"run": settings}))
