"""What each worker of a training run does: go on from the newest checkpoint, step by step to the end, and export."""

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import ray.train
import torch
from pyarrow import fs

from ossft_ray.common.errors import InputError, JobError, Stopped
from ossft_ray.common.storage import Folder
from ossft_ray.config import Experiment
from ossft_ray.distributed.shared_output import check_sees_run
from ossft_ray.distributed.train_group import begin_worker
from ossft_ray.policy.chat import Chat, load_chat
from ossft_ray.run_folder.metrics_log import continue_metrics
from ossft_ray.run_folder.names import BEST, CHECKPOINTS, MODEL
from ossft_ray.stages.train.checkpoints import Checkpoints, local_copy, make_universal
from ossft_ray.stages.train.heartbeats import beater
from ossft_ray.stages.train.stopping import is_stop_requested
from ossft_ray.stages.train.tracking import Tracking

if TYPE_CHECKING:
    from ossft_ray.engines.training.deepspeed_engine import Trainer


def work(config: dict[str, Any]) -> Exception | None:
    """Train; returns, rather than raises, an error that a restarted worker would only meet again."""
    experiment, folder = config["experiment"], config["folder"]
    rank = begin_worker(experiment, "train", config["verbose"])
    try:
        check_sees_run(experiment)
        on_phase = beater(config["heartbeats"], rank, experiment.train.hang_after)
        trainer = _begin(experiment, folder, ray.get(config["examples"]), ray.get(config["holdout"]), on_phase)
        return _train(trainer, experiment, folder)
    except (InputError, JobError) as error:
        return error


def _begin(experiment: Experiment, folder: Folder, examples: Any, holdout: Any, on_phase: Any) -> "Trainer":
    """The trainer as it was at the newest checkpoint, or at the start."""
    from ossft_ray.engines.training.deepspeed_engine import TAG, Trainer, needs_universal

    settings, checkpoint = experiment.train, Checkpoints(folder / CHECKPOINTS).newest()
    arguments = experiment.policy, settings, experiment.run.seed, examples, holdout
    if checkpoint is None:
        return Trainer(*arguments, on_phase=on_phase)
    print(f"going on after step {int(checkpoint.path.rpartition('-')[2])}", flush=True)
    with local_copy(checkpoint) as state:
        if not needs_universal(state, settings, torch.distributed.get_world_size()):
            trainer = Trainer(*arguments, on_phase=on_phase)
            trainer.load_checkpoint(state)
            return trainer
    if torch.distributed.get_rank() == 0:
        make_universal(checkpoint, TAG)
    torch.distributed.barrier()
    trainer = Trainer(*arguments, universal=True, on_phase=on_phase)
    with local_copy(checkpoint) as state:
        trainer.load_checkpoint(state, state / "universal")
    return trainer


def _train(trainer: "Trainer", experiment: Experiment, folder: Folder) -> Exception | None:
    settings, checkpoints = experiment.train, Checkpoints(folder / CHECKPOINTS)
    log = continue_metrics(folder, after_step=trainer.step) if trainer.rank == 0 else None
    tracking = Tracking(experiment, folder, trainer.step) if trainer.rank == 0 else None
    if log is not None:
        checkpoints.prune()
    torch.distributed.barrier()
    for metrics in trainer.steps():
        stops = trainer.agree(trainer.rank == 0 and is_stop_requested(folder))
        if trainer.is_checkpoint_due:
            metrics |= trainer.measure_holdout()
        if settings.keep == "best" and trainer.is_best(metrics):
            _export(trainer, folder / BEST, load_chat(experiment.policy))
        if log is not None:
            log.append(metrics, flush=trainer.is_checkpoint_due or stops)
        if tracking is not None:
            tracking.log(metrics, flush=trainer.is_checkpoint_due or stops)
        if trainer.is_checkpoint_due or stops:
            checkpoints.write(trainer.step, trainer.rank, trainer.save_checkpoint, torch.distributed.barrier)
        if stops and trainer.step < trainer.num_steps:
            if tracking is not None:
                tracking.close()
            return Stopped(f"train: stopped after step {trainer.step} of {trainer.num_steps}; the same command goes on")
    if tracking is not None:
        tracking.close()
    if settings.keep == "best":
        if trainer.rank == 0:
            _move(folder / BEST, folder / MODEL)
    else:
        _export(trainer, folder / MODEL, load_chat(experiment.policy))
    return None


def best_of(measured: list[dict[str, Any]], key: str) -> dict[str, Any]:
    """The metrics of the step that did best on the problems kept apart; the earliest of equals."""
    sign = -1 if key == "mean_token_probability" else 1
    return min(measured, key=lambda metrics: sign * metrics[f"holdout_{key}"])


def _export(trainer: "Trainer", target: Folder, chat: Chat) -> None:
    """Write the model beside its place first, so that the target is a whole model or none."""
    if target.local_path is not None:
        partial = target.local_path.with_name(f".{target.local_path.name}.partial")
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


def _move(source: Folder, target: Folder) -> None:
    """Nothing is lost where this is interrupted: it is done again."""
    if not source.exists():
        return
    target.delete()
    if source.local_path is not None and target.local_path is not None:
        source.local_path.rename(target.local_path)
        return
    fs.copy_files(
        source.path, target.path, source_filesystem=source.filesystem, destination_filesystem=target.filesystem
    )
    source.delete()
