"""The train stage: rewritten examples in, a trained model out. Ray Train runs the workers, DeepSpeed trains in them."""

import uuid
from typing import Any

import ray
from ray.exceptions import RayTaskError

from ossft_ray.common.errors import InputError, JobError
from ossft_ray.common.storage import Folder
from ossft_ray.common.uris import join
from ossft_ray.config import Experiment
from ossft_ray.distributed.nodes import on_driver_node
from ossft_ray.distributed.progress import ALREADY_COMPLETE, OnProgress, announce, ignore
from ossft_ray.distributed.replanning import replanned
from ossft_ray.distributed.resource_check import with_zero_stage
from ossft_ray.distributed.session import check_output, plan_resources, start_ray
from ossft_ray.distributed.train_group import run_group
from ossft_ray.engines.training.saving import PROGRESS, TAG, needs_universal
from ossft_ray.engines.training.trainer import holdout_value
from ossft_ray.run_folder.activity import recorded
from ossft_ray.run_folder.metrics_log import MetricsReader, read_metrics
from ossft_ray.run_folder.names import CHECKPOINTS, INPUTS, MANIFEST, METRICS, REWRITE, SCORE, TRAIN
from ossft_ray.run_folder.provenance import write_config
from ossft_ray.run_folder.reader import examples_folder
from ossft_ray.run_folder.resolved_run import Run
from ossft_ray.run_folder.stage_folder import EXAMPLES_CHANGED, begin_stage, changed_inputs, finish_stage
from ossft_ray.stages.train.checkpoints import Checkpoints, make_universal
from ossft_ray.stages.train.heartbeats import Heartbeats, raise_if_hung
from ossft_ray.stages.train.mixing import mix_inputs
from ossft_ray.stages.train.reference_scores import score_folder
from ossft_ray.stages.train.stopping import StopRequest
from ossft_ray.stages.train.training_examples import TrainingExamples, load_training_examples
from ossft_ray.stages.train.worker import run_worker

# the keys that decide which model comes out; zero_stage, packing and micro_batch_tokens only decide how
_LEARNING_KEYS = {
    "loss", "learning_rate", "epochs", "global_batch_size", "max_length", "precision", "warmup_ratio", "weight_decay",
    "betas", "max_grad_norm", "mean_over", "master_weights", "warmup_from_zero",
    "lora", "deepspeed", "holdout", "keep", "keep_by", "weigh",
}  # fmt: skip


@replanned
def train(
    run: Experiment | Run,
    on_progress: OnProgress = ignore,
    start_over: bool = False,
    verbose: bool = False,
    redo_outdated: bool = False,
) -> dict[str, Any]:
    """Train `[policy] model` on a run's rewritten examples and return the manifest; resumes a run that was killed.

    `on_progress` gets each step's metrics, as in `train/metrics.jsonl`. `start_over` discards earlier training,
    `redo_outdated` only if its examples have changed since.

    Raises:
        InputError: there are no complete examples, none fits max_length, or the output was made with other settings
            or would be lost.
        JobError: training failed, or no worker moves any more; says why and where the log is.
        Stopped: SIGTERM or `stop_after` asked for it; a checkpoint is written.
    """
    run = Run.of(run)
    experiment, folder = run.experiment, run.folder / TRAIN
    check_output(experiment.run.output)
    source = examples_folder(experiment)
    scores = score_folder(run, source)
    inputs = _inputs(run, source, scores)
    if redo_outdated and not start_over:
        changes = changed_inputs(folder, inputs)
        if changes and all(change.key in (REWRITE, SCORE) for change in changes):
            announce(on_progress, note=f"train: {EXAMPLES_CHANGED}; training starts again")
            start_over = True
    is_new = start_over or not folder.exists(INPUTS)
    # Learning settings are compared on the same examples, each in its own output.
    examples = experiment.train.examples or join(experiment.run.output, REWRITE)
    elsewhere = "Use another [run] output"
    if experiment.train.loss != "opd":  # which trains only on its own run's attempts
        elsewhere += f" with train.examples={examples}"
    if (manifest := begin_stage(folder, inputs, start_over, elsewhere=elsewhere)) is not None:
        on_progress(ALREADY_COMPLETE)
        return manifest
    with recorded(folder):
        announce(on_progress, starting="reading the examples")
        return _complete(run, source, scores, inputs, is_new, on_progress, verbose)


def _complete(
    run: Run,
    source: Folder,
    scores: Folder | None,
    inputs: dict[str, Any],
    is_new: bool,
    on_progress: OnProgress,
    verbose: bool,
) -> dict[str, Any]:
    """Train from the newest checkpoint to the end, and write the manifest."""
    experiment, folder = run.experiment, run.folder / TRAIN
    write_config(experiment)
    try:
        data = load_training_examples(source, run.chat, experiment, scores)
    except InputError:
        if is_new:  # otherwise corrected settings would be rejected as a mismatch with a run that produced nothing
            folder.delete()
        raise
    announce(on_progress, starting="starting Ray")
    start_ray(experiment, verbose)
    experiment = with_zero_stage(experiment)
    _convert_checkpoint(experiment, folder, on_progress)
    announce(on_progress, starting="loading the model")
    _fit(experiment, folder, data, on_progress, verbose)
    return finish_stage(folder, inputs, _manifest(experiment, folder, data))


def _inputs(run: Run, source: Folder, scores: Folder | None) -> dict[str, Any]:
    """What the trained model depends on, with the hyper-parameters of the chosen loss only."""
    settings, options = run.experiment.train, run.experiment.train.loss_options
    inputs = {
        "train": settings.model_dump(mode="json", include=_LEARNING_KEYS)
        | ({settings.loss: options} if options else {})
        # older runs lack these
        | ({"select": settings.select} if settings.select != "all" else {})
        | ({"mix": mix_inputs(settings.mix)} if settings.mix else {}),
        "seed": run.experiment.run.seed,
        "model": run.policy_digest,
        "chat_template": run.experiment.policy.chat_template,
        "chat_template_kwargs": run.experiment.policy.chat_template_kwargs,
        "date": run.experiment.policy.date,
        "rewrite": source.read_json(MANIFEST)["fingerprint"],
    }
    return inputs if scores is None else inputs | {"score": scores.read_json(MANIFEST)["fingerprint"]}


def _convert_checkpoint(experiment: Experiment, folder: Folder, on_progress: OnProgress) -> None:
    """Convert the newest checkpoint if another number of workers wrote it, on a node with a free CPU.

    It may take long, so it is done before there are workers that would wait in a collective.
    """
    checkpoint = Checkpoints(folder / CHECKPOINTS).newest()
    if checkpoint is None:
        return
    num_workers = plan_resources(experiment.resources).num_train_workers
    if not needs_universal(checkpoint.read_json(PROGRESS), experiment.train, num_workers):
        return
    announce(on_progress, starting=f"converting the checkpoint for {num_workers} workers")
    convert = ray.remote(num_cpus=1)(make_universal)
    try:
        ray.get(convert.remote(checkpoint, TAG))
    except RayTaskError as error:
        raise error.cause from error


def _fit(
    experiment: Experiment, folder: Folder, data: TrainingExamples, on_progress: OnProgress, verbose: bool
) -> None:
    """Let the workers train, and pass each new line of metrics on."""
    heartbeats = on_driver_node(Heartbeats)
    config = {
        "experiment": experiment,
        "folder": folder,
        "examples": ray.put(data.examples),
        "holdout": ray.put(data.holdout),
        "heartbeats": heartbeats,
        "token": uuid.uuid4().hex,
        "verbose": verbose,
    }
    reader, request = MetricsReader(folder), StopRequest(experiment.train.stop_after)

    def poll() -> None:
        if request.is_due:
            heartbeats.request_stop.remote()
        for metrics in reader.new_lines():
            on_progress(metrics)
        raise_if_hung(heartbeats, experiment.train.hang_after)

    with request.at_sigterm():
        run_group(run_worker, config, experiment, folder, CHECKPOINTS, poll, Checkpoints(folder / CHECKPOINTS).newest)


def _manifest(experiment: Experiment, folder: Folder, data: TrainingExamples) -> dict[str, Any]:
    steps, examples, settings = read_metrics(folder), data.examples, experiment.train
    if not steps:
        raise JobError(f"{folder.path}/{METRICS} is gone: something deleted it while training ran")
    measured = [metrics for metrics in steps if holdout_value(metrics, settings.keep_by) is not None]
    kept = measured[-1] if measured else steps[-1]
    if settings.keep == "best":
        kept = min(measured, key=lambda metrics: holdout_value(metrics, settings.keep_by) or 0.0)
    return {
        "steps": len(steps),
        "epochs": settings.epochs,
        "examples": len(examples),
        "tokens": int(examples.lengths.sum()),
        "response_tokens": int(examples.response_lengths.sum()),
        "too_long": data.too_long,
        "not_selected": data.num_not_selected,
        "mix": [rows.as_json() for rows in data.mixed],
        "reencoded": data.num_reencoded,
        "holdout_examples": len(data.holdout) if data.holdout is not None else 0,
        "kept_step": kept["step"],
        **{key: value for key, value in kept.items() if key.startswith("holdout_")},
        "loss": steps[-1]["loss"],
        "cross_entropy": steps[-1]["cross_entropy"],
        "seconds": sum(metrics["seconds"] for metrics in steps),
    }
