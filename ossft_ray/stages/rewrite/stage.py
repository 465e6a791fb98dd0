"""`ossft rewrite`: make the data on-policy. Problems in, EXAMPLE rows out (arXiv 2509.15157, Section 3).

The driver reads the input once, sets unusable rows aside and shards the problems into parts. Workers turn each part of
problems into a part of examples. A part is written whole or not at all, and until then its attempts are logged, so a
killed run resumes with the missing parts and samples again only what was in flight.
"""

from typing import Any

from ossft_ray.config import Experiment
from ossft_ray.distributed.progress import ALREADY_COMPLETE, OnProgress, announce, ignore
from ossft_ray.distributed.replanning import replanned
from ossft_ray.distributed.rollout_pool import run_workers
from ossft_ray.distributed.session import check_output, start_ray
from ossft_ray.engines.vllm_policy import check_engine_settings
from ossft_ray.run_folder.activity import recorded
from ossft_ray.run_folder.names import BEFORE, PARTS, REWRITE, UNFINISHED, part_number
from ossft_ray.run_folder.provenance import write_config
from ossft_ray.run_folder.resolved_run import Run
from ossft_ray.run_folder.sessions import Session
from ossft_ray.run_folder.stage_folder import begin_stage, finish_stage
from ossft_ray.stages.rewrite.external import check_external
from ossft_ray.stages.rewrite.ingest import part_capacity, shard_input
from ossft_ray.stages.rewrite.inputs import is_extension, record_growth, rewrite_inputs
from ossft_ray.stages.rewrite.manifest import manifest_figures
from ossft_ray.stages.rewrite.worker import RewriteWorker


@replanned
def rewrite(
    run: Experiment | Run,
    on_progress: OnProgress = ignore,
    start_over: bool = False,
    verbose: bool = False,
    worker: type[RewriteWorker] = RewriteWorker,
) -> dict[str, Any]:
    """Rewrite all problems of `[data]` and return the manifest; a complete stage is left as is.

    `on_progress` gets running totals: `total`, `done_before`, the experiment's `stages`, and for this session
    `problems`, `self`, `guided`, `external`, `expert`, `dropped`, and the counts of `run_workers`. `worker` may be a
    subclass, for example with a scripted policy.

    Raises:
        InputError: the data, the policy or the settings cannot be used, or the folder holds rows of other settings.
        JobError: a worker failed; the same command resumes.
    """
    run = Run.of(run, refresh_revision=start_over)
    experiment, folder = run.experiment, run.folder / REWRITE
    check_output(experiment.run.output)
    check_engine_settings(experiment.policy.engine)
    inputs = rewrite_inputs(run)
    if (manifest := begin_stage(folder, inputs, start_over, is_extension)) is not None:
        on_progress(ALREADY_COMPLETE)
        return manifest

    with recorded(folder):
        return _complete(run, inputs, on_progress, verbose, worker)


def _complete(
    run: Run, inputs: dict[str, Any], on_progress: OnProgress, verbose: bool, worker: type[RewriteWorker]
) -> dict[str, Any]:
    """Rewrite what is missing, and write the manifest."""
    experiment, folder = run.experiment, run.folder / REWRITE
    check_external(experiment)
    session = Session(folder)
    announce(on_progress, starting="reading the data")
    input_manifest = shard_input(run, folder)
    record_growth(folder, inputs)
    session.end_phase("reading data")
    finished = set(folder.names(PARTS))
    # Large parts first, because small ones spread better over many policies at the end.
    missing = sorted(set(input_manifest.part_names) - finished, key=lambda part: (-_capacity(part), part))
    num_done = min(input_manifest.problems, sum(map(_capacity, finished)))
    counts = {"total": input_manifest.problems, "done_before": num_done, "stages": experiment.rewrite.stages}
    announce(on_progress, starting="starting Ray")
    start_ray(experiment, verbose)
    totals = run_workers(
        worker,
        experiment,
        missing,
        input_manifest.problems - num_done,
        REWRITE,
        lambda totals: on_progress(counts | totals),
        verbose,
        max_length=run.engine_length(input_manifest.longest_problem),
    )
    session.end_phase("rewriting", totals)
    session.close()
    manifest = finish_stage(folder, inputs, manifest_figures(folder, input_manifest))
    for name in (UNFINISHED, BEFORE):
        (folder / name).delete()
    write_config(experiment)
    return manifest


def _capacity(part: str) -> int:
    return part_capacity(part_number(part))
