"""The train stage: rewritten examples in, a trained model out. Ray Train runs the workers, DeepSpeed trains in them."""

from typing import Any

import ray
import ray.train
from ray.train.torch import TorchTrainer

from ossft_ray.config import Experiment
from ossft_ray.engines.chat import load_chat, model_digest
from ossft_ray.errors import InputError, JobError
from ossft_ray.provenance import write_config
from ossft_ray.stages.cluster import check_output, log_folder, place, start_ray
from ossft_ray.stages.heartbeats import Heartbeats, refuse_silence
from ossft_ray.stages.metrics_log import MetricsReader, read_metrics
from ossft_ray.stages.progress import ALREADY_COMPLETE, OnProgress, watch
from ossft_ray.stages.references import References, needs_scores, score_folder
from ossft_ray.stages.stopping import StopRequest, at_sigterm
from ossft_ray.stages.train_inputs import Tokenised, tokenise
from ossft_ray.stages.train_worker import CHECKPOINTS, best_of, work
from ossft_ray.storage import MANIFEST, Folder, begin_stage, finish_stage

_MAX_FAILURES = 2  # of a worker, each answered by going on from the newest checkpoint
# threads that spin while they wait make a step 40 times slower as soon as another program uses one of the cores
_CPU_ENVIRONMENT = {"DS_ACCELERATOR": "cpu", "OMP_WAIT_POLICY": "PASSIVE"}
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
    folder = Folder.at(experiment.run.output) / "train"
    report = on_progress or (lambda metrics: None)
    source = _source(experiment)
    inputs = {
        "train": experiment.train.model_dump(mode="json", include=_LEARNING_KEYS) | _loss_options(experiment),
        "seed": experiment.run.seed,
        "model": model_digest(experiment.policy),
        "chat_template": experiment.policy.chat_template,
        "rewrite": source.read_json(MANIFEST)["fingerprint"],
    }
    scores = score_folder(experiment) if needs_scores(experiment) else None
    if scores is not None:
        inputs["score"] = scores.read_json(MANIFEST)["fingerprint"]
    if (manifest := begin_stage(folder, inputs, start_over)) is not None:
        report(ALREADY_COMPLETE)
        return manifest
    write_config(experiment)
    tokenised = tokenise(source, load_chat(experiment.policy), experiment, References(scores) if scores else None)
    start_ray(experiment, verbose)
    _fit(experiment, folder, tokenised, report, verbose)
    return finish_stage(folder, inputs, _manifest(experiment, folder, tokenised))


def _loss_options(experiment: Experiment) -> dict[str, Any]:
    """The hyper-parameters of the loss that is used, under its name; those of others change nothing."""
    options = experiment.train.loss_options
    return {experiment.train.loss: options} if options else {}


def _source(experiment: Experiment) -> Folder:
    """The rewrite folder to train on, which must be complete."""
    uri = experiment.train.examples
    source = Folder.at(uri) if uri is not None else Folder.at(experiment.run.output) / "rewrite"
    if not source.exists(MANIFEST):
        mend = "[train] examples must be a finished run's rewrite folder" if uri else "run `ossft rewrite` first"
        raise InputError(f"{source.path}: no complete examples (no {MANIFEST}); {mend}")
    return source


def _fit(experiment: Experiment, folder: Folder, tokenised: Tokenised, on_progress: OnProgress, verbose: bool) -> None:
    """Run Ray Train in a thread of its own, and meanwhile pass each new line of metrics on."""
    placement = place(experiment.resources)
    on_gpu = placement.gpus_per_train_worker > 0
    heartbeats = Heartbeats.remote()  # type: ignore[attr-defined]
    trainer = TorchTrainer(
        work,
        train_loop_config={
            "experiment": experiment,
            "folder": folder,
            "examples": ray.put(tokenised.examples),
            "holdout": ray.put(tokenised.holdout),
            "heartbeats": heartbeats,
            "verbose": verbose,
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=placement.num_train_workers,
            use_gpu=on_gpu,
            resources_per_worker={"CPU": 1, "GPU": placement.gpus_per_train_worker} if on_gpu else {"CPU": 1},
        ),
        run_config=ray.train.RunConfig(
            name=CHECKPOINTS,
            storage_path=folder.path,
            storage_filesystem=folder.filesystem,
            failure_config=ray.train.FailureConfig(max_failures=_MAX_FAILURES),
            worker_runtime_env={} if on_gpu else {"env_vars": _CPU_ENVIRONMENT},
        ),
    )
    reader, request = MetricsReader(folder), StopRequest(folder, experiment.train.stop_after)

    def poll() -> None:
        request.poll()
        for metrics in reader.new_lines():
            on_progress(metrics)
        refuse_silence(heartbeats, experiment.train.hang_after)

    try:
        with at_sigterm(request):
            refusal = watch(trainer.fit, poll).return_value
    except ray.train.TrainingFailedError as error:
        raise _failure(error, experiment) from error
    finally:
        request.clear()
    if refusal is not None:
        raise refusal


def _failure(error: Exception, experiment: Experiment) -> JobError:
    """One line for Ray's pages: the first failed worker's own error, and where to read on."""
    failures = getattr(error, "worker_failures", None) or {0: error}
    rank, cause = min(failures.items())
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    logs = log_folder(experiment)
    return JobError(
        f"train: worker {rank} failed: {lines[-1] if lines else type(cause).__name__}"
        + (f"; logs: {logs}" if logs else "")
        + "; the same command goes on from the newest checkpoint"
    )


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
