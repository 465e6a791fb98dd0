"""The train stage: rewritten examples in, a trained model out. Ray Train runs the workers, DeepSpeed trains in them."""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import ray.train
import torch
from pyarrow import fs
from ray.train.torch import TorchTrainer

from ossft_ray.config import Experiment
from ossft_ray.engines.batches import Examples
from ossft_ray.engines.chat import Chat, load_chat, model_digest
from ossft_ray.errors import InputError, JobError
from ossft_ray.provenance import write_config
from ossft_ray.schema import EXAMPLE, check_table
from ossft_ray.stages.cluster import check_output, log_folder, place, redirect_output, start_ray
from ossft_ray.stages.metrics_log import MetricsLog, MetricsReader, read_metrics
from ossft_ray.stages.progress import ALREADY_COMPLETE, OnProgress, watch
from ossft_ray.stages.references import References, needs_scores, score_folder
from ossft_ray.storage import MANIFEST, Folder, begin_stage, finish_stage

if TYPE_CHECKING:
    from ossft_ray.engines.deepspeed_engine import Trainer

MODEL, CHECKPOINTS = "model", "checkpoints"
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
        JobError: training failed; says why and where the log is.
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
    _fit(experiment, folder, tokenised.examples, report, verbose)
    return finish_stage(folder, inputs, _manifest(experiment, folder, tokenised))


@dataclass(frozen=True)
class Tokenised:
    """A rewrite folder's rows as token ids, and what became of those that are not among them."""

    examples: Examples
    too_long: list[str]  # problem ids, set aside
    num_reencoded: int  # responses of another policy, whose tokens mean nothing here


def tokenise(source: Folder, chat: Chat, experiment: Experiment, references: References | None = None) -> Tokenised:
    """Prompts through the chat template; responses as the token ids that were sampled.

    A response is encoded anew only if another policy wrote it and its ids do not spell it in this tokenizer.

    Raises:
        InputError: nothing is left to train on, or a response has no reference where the loss needs one.
    """
    max_length = experiment.train.max_length
    kept: dict[str, list[Any]] = {"problem_ids": [], "prompts": [], "responses": [], "origins": []}
    reference_logprobs: list[list[float]] = []
    too_long, num_reencoded = [], 0
    for name in source.names("part-*.parquet"):
        for row in check_table(source.read_table(name), EXAMPLE, f"{source.path}/{name}").to_pylist():
            prompt, response = chat.render(row["prompt"]), chat.close_turn(row["response_token_ids"])
            if row["policy"] != experiment.policy.model and not _spells(chat, response, row["response"]):
                response = chat.encode_response(row["response"])
                num_reencoded += 1
            if len(prompt) + len(response) > max_length:
                too_long.append(row["problem_id"])
                continue
            if references is not None:
                reference_logprobs.append(references.of(row["problem_id"], response))
            for key, value in zip(kept, (row["problem_id"], prompt, response, row["origin"]), strict=True):
                kept[key].append(value)
    if not kept["problem_ids"]:
        raise InputError(
            f"{source.path}: nothing to train on: {len(too_long)} examples, all longer than "
            f"train.max_length = {max_length} tokens; raise it"
            if too_long
            else f"{source.path}: nothing to train on: it holds no examples"
        )
    examples = Examples.build(**kept, reference_logprobs=reference_logprobs if references is not None else None)
    return Tokenised(examples, too_long, num_reencoded)


def _loss_options(experiment: Experiment) -> dict[str, Any]:
    """The hyper-parameters of the loss that is used, under its name; those of others change nothing."""
    options = experiment.train.loss_options
    return {experiment.train.loss: options} if options else {}


def _spells(chat: Chat, token_ids: list[int], response: str) -> bool:
    return token_ids[-1:] == [chat.end_of_turn_id] and chat.decode(token_ids) == response


def _source(experiment: Experiment) -> Folder:
    """The rewrite folder to train on, which must be complete."""
    uri = experiment.train.examples
    source = Folder.at(uri) if uri is not None else Folder.at(experiment.run.output) / "rewrite"
    if not source.exists(MANIFEST):
        mend = "[train] examples must be a finished run's rewrite folder" if uri else "run `ossft rewrite` first"
        raise InputError(f"{source.path}: no complete examples (no {MANIFEST}); {mend}")
    return source


def _fit(experiment: Experiment, folder: Folder, examples: Examples, on_progress: OnProgress, verbose: bool) -> None:
    """Run Ray Train in a thread of its own, and meanwhile pass each new line of metrics on."""
    placement = place(experiment.resources)
    on_gpu = placement.gpus_per_train_worker > 0
    trainer = TorchTrainer(
        _work,
        train_loop_config={
            "experiment": experiment,
            "folder": folder,
            "examples": ray.put(examples),
            "verbose": verbose,
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=placement.num_train_workers,
            use_gpu=on_gpu,
            resources_per_worker={"CPU": 1, "GPU": placement.gpus_per_train_worker} if on_gpu else {"CPU": 1},
        ),
        run_config=ray.train.RunConfig(
            name=CHECKPOINTS,  # the same name at the same place: Ray Train goes on from the newest checkpoint there
            storage_path=folder.path,
            storage_filesystem=folder.filesystem,
            failure_config=ray.train.FailureConfig(max_failures=_MAX_FAILURES),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            worker_runtime_env={} if on_gpu else {"env_vars": _CPU_ENVIRONMENT},
        ),
    )
    reader = MetricsReader(folder)

    def poll() -> None:
        for metrics in reader.new_lines():
            on_progress(metrics)

    try:
        refusal = watch(trainer.fit, poll).return_value
    except ray.train.TrainingFailedError as error:
        raise _failure(error, experiment) from error
    if refusal is not None:
        raise refusal


def _work(config: dict[str, Any]) -> Exception | None:
    """What each worker does; returns, rather than raises, an error that a restarted worker would only meet again."""
    experiment, folder = config["experiment"], config["folder"]
    context = ray.train.get_context()
    rank = context.get_world_rank()
    if not config["verbose"]:
        redirect_output(experiment, f"train-{rank}")
    if not ray.get_gpu_ids():
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // context.get_local_world_size()))

    from ossft_ray.engines.deepspeed_engine import Trainer

    try:
        trainer = Trainer(experiment.policy, experiment.train, experiment.run.seed, ray.get(config["examples"]))
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is not None:
            with checkpoint.as_directory() as state:
                trainer.load_checkpoint(Path(state))
        log = MetricsLog(folder) if rank == 0 else None
        if log is not None:
            log.cut(after_step=trainer.step)
        for metrics in trainer.steps():
            if log is not None:
                log.append(metrics, flush=trainer.is_checkpoint_due)
            if trainer.is_checkpoint_due:
                with tempfile.TemporaryDirectory() as state:
                    trainer.save_checkpoint(Path(state))
                    ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(state))
        _export(trainer, folder / MODEL, load_chat(experiment.policy))
    except (InputError, JobError) as error:
        return error
    return None


def _export(trainer: "Trainer", target: Folder, chat: Chat) -> None:
    """Write the trained model beside its place first, so that `train/model` is a whole model or none."""
    if target.local_path is not None:
        partial = target.local_path.with_name(f".{MODEL}.partial")
        if trainer.rank == 0:
            shutil.rmtree(partial, ignore_errors=True)  # of a run killed in mid-export
        trainer.export(partial, chat)
        if trainer.rank == 0:
            target.delete()
            partial.rename(target.local_path)
        return
    with tempfile.TemporaryDirectory() as staging:
        trainer.export(Path(staging), chat)
        if trainer.rank == 0:
            fs.copy_files(staging, target.path, destination_filesystem=target.filesystem)


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
        "loss": steps[-1]["loss"],
        "cross_entropy": steps[-1]["cross_entropy"],
        "seconds": sum(metrics["seconds"] for metrics in steps),
    }
