"""The train stage: rewritten examples in, a trained model out. Ray Train runs the workers, DeepSpeed trains in them."""

from typing import Any

import ray

from ossft_ray.common.errors import InputError
from ossft_ray.common.storage import Folder
from ossft_ray.config import Experiment
from ossft_ray.distributed.nodes import on_driver_node
from ossft_ray.distributed.progress import ALREADY_COMPLETE, OnProgress
from ossft_ray.distributed.replanning import replanned
from ossft_ray.distributed.session import check_output, start_ray
from ossft_ray.distributed.train_group import run_group
from ossft_ray.policy.chat import load_chat, model_digest
from ossft_ray.run_folder.metrics_log import MetricsReader, read_metrics
from ossft_ray.run_folder.names import CHECKPOINTS, INPUTS, MANIFEST, TRAIN
from ossft_ray.run_folder.provenance import write_config
from ossft_ray.run_folder.reader import examples_folder
from ossft_ray.run_folder.revisions import pin
from ossft_ray.run_folder.stage_folder import begin_stage, finish_stage
from ossft_ray.stages.train.checkpoints import Checkpoints
from ossft_ray.stages.train.heartbeats import Heartbeats, refuse_silence
from ossft_ray.stages.train.reference_logprobs import References, needs_scores, score_folder
from ossft_ray.stages.train.stopping import StopRequest, at_sigterm
from ossft_ray.stages.train.training_examples import Tokenised, tokenise
from ossft_ray.stages.train.worker import best_of, work

# what decides which model comes out; zero_stage, packing and micro_batch_tokens only decide how
_LEARNING_KEYS = {
    "loss",
    "learning_rate",
    "epochs",
    "global_batch_size",
    "max_length",
    "precision",
    "warmup_ratio",
    "weight_decay",
    "betas",
    "max_grad_norm",
    "lora",
    "deepspeed",
    "holdout",
    "keep",
    "keep_by",
}


@replanned
def train(
    experiment: Experiment,
    on_progress: OnProgress | None = None,
    start_over: bool = False,
    verbose: bool = False,
) -> dict[str, Any]:
    """Train `[policy] model` on a run's rewritten examples; returns the manifest. Goes on where a killed run was.

    Args:
        experiment: the resolved experiment.
        on_progress: called with each step's metrics, as in `train/metrics.jsonl`; or once, if nothing is left to do.
        start_over: discard what an earlier run with other settings left.
        verbose: let Ray print what its workers print.

    Raises:
        InputError: there are no complete examples, none fits max_length, or the output was made with other settings
            or would be lost.
        JobError: training failed, or nothing in it moves any more; says why and where the log is.
        Stopped: it was asked to stop, by SIGTERM or `stop_after`, and has written a checkpoint.
    """
    check_output(experiment.run.output)
    experiment = pin(experiment)
    folder = Folder.at(experiment.run.output) / TRAIN
    report = on_progress or (lambda metrics: None)
    source = examples_folder(experiment)
    inputs = {
        "train": experiment.train.model_dump(mode="json", include=_LEARNING_KEYS) | _loss_options(experiment),
        "seed": experiment.run.seed,
        "model": model_digest(experiment.policy),
        "chat_template": experiment.policy.chat_template,
        "rewrite": source.read_json(MANIFEST)["fingerprint"],
    }
    scores = score_folder(experiment, source) if needs_scores(experiment) else None
    if scores is not None:
        inputs["score"] = scores.read_json(MANIFEST)["fingerprint"]
    is_new = start_over or not folder.exists(INPUTS)
    if (manifest := begin_stage(folder, inputs, start_over)) is not None:
        report(ALREADY_COMPLETE)
        return manifest
    write_config(experiment)
    try:
        tokenised = tokenise(source, load_chat(experiment.policy), experiment, References(scores) if scores else None)
    except InputError:
        if is_new:  # else the mended settings would be refused as others than those that nothing was made with
            folder.delete()
        raise
    start_ray(experiment, verbose)
    _fit(experiment, folder, tokenised, report, verbose)
    return finish_stage(folder, inputs, _manifest(experiment, folder, tokenised))


def _loss_options(experiment: Experiment) -> dict[str, Any]:
    """The hyper-parameters of the loss that is used, under its name; those of others change nothing."""
    options = experiment.train.loss_options
    return {experiment.train.loss: options} if options else {}


def _fit(experiment: Experiment, folder: Folder, tokenised: Tokenised, on_progress: OnProgress, verbose: bool) -> None:
    """Let the workers train, and meanwhile pass each new line of metrics on."""
    heartbeats = on_driver_node(Heartbeats)
    config = {
        "experiment": experiment,
        "folder": folder,
        "examples": ray.put(tokenised.examples),
        "holdout": ray.put(tokenised.holdout),
        "heartbeats": heartbeats,
        "verbose": verbose,
    }
    reader, request = MetricsReader(folder), StopRequest(folder, experiment.train.stop_after)

    def poll() -> None:
        request.poll()
        for metrics in reader.new_lines():
            on_progress(metrics)
        refuse_silence(heartbeats, experiment.train.hang_after)

    try:
        with at_sigterm(request):
            run_group(work, config, experiment, folder, CHECKPOINTS, poll, Checkpoints(folder / CHECKPOINTS).newest)
    finally:
        request.clear()


def _manifest(experiment: Experiment, folder: Folder, tokenised: Tokenised) -> dict[str, Any]:
    steps, examples = read_metrics(folder), tokenised.examples
    return {
        "steps": len(steps),
        "epochs": experiment.train.epochs,
        "examples": len(examples),
        "tokens": int(examples.lengths.sum()),
        "response_tokens": int(examples.response_lengths.sum()),
        "too_long": tokenised.too_long,
        "reencoded": tokenised.num_reencoded,
        "holdout_examples": len(tokenised.holdout) if tokenised.holdout is not None else 0,
        **_kept(experiment, steps),
        "loss": steps[-1]["loss"],
        "cross_entropy": steps[-1]["cross_entropy"],
        "seconds": sum(metrics["seconds"] for metrics in steps),
    }


def _kept(experiment: Experiment, steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Which step's weights were exported, and how they did on the problems kept apart."""
    measured = [metrics for metrics in steps if f"holdout_{experiment.train.keep_by}" in metrics]
    if not measured:
        return {"kept_step": len(steps)}
    last = measured[-1]
    if experiment.train.keep == "best":
        last = best_of(measured, experiment.train.keep_by)
    return {"kept_step": last["step"], **{key: value for key, value in last.items() if key.startswith("holdout_")}}
