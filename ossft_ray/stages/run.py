"""`ossft run`: rewrite, score, train, evaluate and report, `[loop] rounds` times, each with the last round's model."""

import os
from typing import Any

from ossft_ray.common.errors import InputError
from ossft_ray.common.uris import absolute, join
from ossft_ray.config import Experiment
from ossft_ray.distributed.progress import OnStage, ignore_stages
from ossft_ray.distributed.resource_check import check_training_memory
from ossft_ray.distributed.session import start_ray
from ossft_ray.report import report
from ossft_ray.run_folder.names import BASE, EVALUATE, INPUTS, REWRITE, SCORE, TRAIN, round_name
from ossft_ray.run_folder.reader import read_json
from ossft_ray.run_folder.resolved_run import Run
from ossft_ray.run_folder.stage_folder import Difference
from ossft_ray.stages.check.stage import check
from ossft_ray.stages.evaluate.stage import evaluate
from ossft_ray.stages.rewrite.inputs import rewrite_inputs
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

    Outdated output is made again: scores, models and evaluations of examples that have changed since. Without a
    benchmark, nothing is evaluated.

    Everything is checked before the first stage starts. Each stage ends its actors and their engines' processes before
    the next begins, so that training finds free memory on a single GPU. `on_stage` is called with a stage's name as it
    begins, and returns the `on_progress` for it.

    Raises:
        InputError: the experiment cannot run as it is; says why.
        JobError: a stage failed; the same command resumes.
    """
    sampler = learner = first = Run(experiment)
    check(learner)
    if os.environ.get("RAY_ADDRESS"):  # the cluster's GPUs are known only there
        start_ray(experiment, verbose)
        check_training_memory(experiment)
    for number in range(1, experiment.loop.rounds + 1):
        if number > 1:
            sampler, learner = next_round(first, learner, number)
        sampling = sampler.pinned(refresh=start_over)
        learning = sampling if learner is sampler else learner.pinned(refresh=start_over)
        if number == 1:
            first = learning
        runs = {stage: sampling if stage == REWRITE else learning for stage in _BASE_MODEL}
        again = {
            stage: start_over or (number > 1 and _is_outdated(run_of_stage, stage, first))
            for stage, run_of_stage in runs.items()
        }
        if number > 1 and not again[REWRITE]:
            _check_problems(sampling)
        rewrite(sampling, on_stage(REWRITE), again[REWRITE], verbose)
        score(learning, on_stage(SCORE), again[SCORE], verbose)
        train(learning, on_stage(TRAIN), again[TRAIN], verbose, redo_outdated=True)
        if experiment.evaluate.benchmarks:
            evaluate(learning, on_stage(EVALUATE), again[EVALUATE], verbose)
        report(learner.experiment)
    if experiment.loop.rounds > 1:
        report(experiment)  # the first round's page, now with all rounds side by side
    return learner.experiment


def _is_outdated(run: Run, stage: str, first: Run) -> bool:
    """Whether a later round's output was made with a model, or copied from rows, that have since been remade.

    Output made with another `[loop] start_from` is not outdated: its stage refuses it.
    """
    folder, key = _BASE_MODEL[stage]
    recorded = read_json(run.folder, f"{folder}/{INPUTS}")
    if not recorded or (stage != REWRITE and run.experiment.loop.start_from == "base"):
        return False
    if recorded.get(key) not in (run.policy_digest, first.policy_digest):
        return True
    copied_from = recorded.get("rewrite", {}).get("solved_in") if stage == REWRITE else None
    return copied_from is not None and copied_from != rewrite_inputs(run)["rewrite"].get("solved_in", copied_from)


def _check_problems(run: Run) -> None:
    """Refuse a changed `[loop] problems` in a later round that has begun; its stage knows only the rows it copies."""
    if not (recorded := read_json(run.folder, f"{REWRITE}/{INPUTS}")):
        return
    were, are = (
        "all" if copied is None else "unsolved"
        for copied in (recorded["rewrite"].get("solved_in"), run.experiment.rewrite.solved_in)
    )
    if were != are:
        raise InputError(
            f"{run.folder.path} was made with different settings: {Difference('loop.problems', were, are)}. "
            "Use another [run] output, or --start-over to redo all rounds."
        )


def next_round(first: Run, previous: Run, number: int) -> tuple[Run, Run]:
    """Round `number` of a run, in `round-N/`: the run that rewrites, and the run that scores, trains and evaluates.

    The previous round's model always rewrites; it is also the one that is trained, unless `[loop] start_from` says that
    each round trains the base. With `problems = "unsolved"`, the rows of solved problems are copied from the previous
    round's rewrite folder, which holds those of all earlier rounds: the newest row of every problem.
    """
    loop, output = first.experiment.loop, first.experiment.run.output
    changes: dict[str, Any] = {
        "run": first.experiment.run.model_copy(update={"output": join(output, round_name(number))})
    }
    if loop.problems == "unsolved":
        solved_in = absolute(join(previous.experiment.run.output, REWRITE))
        changes["rewrite"] = first.experiment.rewrite.model_copy(update={"solved_in": solved_in})
    sampler = Run(previous.of_trained_model.experiment.model_copy(update=changes))
    if loop.start_from == "previous":
        return sampler, sampler
    # the base at the commit of round 1, and the date that this round's prompts get
    policy = first.experiment.policy.model_copy(update={"date": previous.experiment.policy.date})
    return sampler, Run(sampler.experiment.model_copy(update={"policy": policy}))
