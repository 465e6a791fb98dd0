"""A training worker: it trains from the newest checkpoint to the end, and exports the model."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.collective
import torch
from pyarrow import fs

from ossft_ray.common.errors import Stopped
from ossft_ray.common.storage import Folder
from ossft_ray.config import Experiment
from ossft_ray.distributed.shared_output import check_sees_run
from ossft_ray.distributed.train_group import begin_worker
from ossft_ray.engines.training.diagnosis import explain_out_of_memory
from ossft_ray.engines.training.saving import PROGRESS, export_model, load_state, needs_universal, save_state
from ossft_ray.engines.training.trainer import Trainer
from ossft_ray.policy.chat import Chat, load_chat
from ossft_ray.run_folder.metrics_log import continue_metrics
from ossft_ray.run_folder.names import CHECKPOINTS, MODEL
from ossft_ray.stages.train.checkpoints import UNIVERSAL, Checkpoints, node_copy
from ossft_ray.stages.train.heartbeats import make_heartbeat
from ossft_ray.stages.train.tracking import Tracking


def run_worker(config: dict[str, Any]) -> Stopped | None:
    """Train to the end, or until the driver asks to stop.

    Raises:
        InputError, JobError: the policy, the settings or a step failed in a way that a restart would repeat.
    """
    experiment, folder = config["experiment"], config["folder"]
    rank = begin_worker(experiment, "train", config["verbose"])
    check_sees_run(experiment)
    on_phase = make_heartbeat(config["heartbeats"], rank, experiment.train.hang_after)
    trainer = _begin(config, ray.get(config["examples"]), ray.get(config["holdout"]), on_phase)
    return _train(trainer, experiment, folder, config["heartbeats"])


def _begin(config: dict[str, Any], examples: Any, holdout: Any, on_phase: Any) -> Trainer:
    """The trainer as it was at the newest checkpoint, or at the start."""
    experiment, checkpoint = config["experiment"], Checkpoints(config["folder"] / CHECKPOINTS).newest()
    settings, context = experiment.train, ray.train.get_context()
    arguments = experiment.policy, settings, experiment.run.seed, examples, holdout
    if checkpoint is None:
        return Trainer(*arguments, on_phase=on_phase)
    print(f"resuming after step {int(checkpoint.path.rpartition('-')[2])}", flush=True)
    universal = needs_universal(checkpoint.read_json(PROGRESS), settings, context.get_world_size())
    with node_copy(checkpoint, context.get_world_rank(), universal, config["token"]) as state:
        ray.train.collective.barrier()  # without a time limit, unlike the group's, for nodes that download slowly
        trainer = Trainer(*arguments, universal=universal, on_phase=on_phase)
        with explain_out_of_memory("train", "loading the checkpoint"):
            load_state(trainer, state, state / UNIVERSAL if universal else None)
    return trainer


def _train(trainer: Trainer, experiment: Experiment, folder: Folder, heartbeats: Any) -> Stopped | None:
    settings, checkpoints, chat = experiment.train, Checkpoints(folder / CHECKPOINTS), load_chat(experiment.policy)
    log, tracking = None, None
    if trainer.rank == 0:
        log = continue_metrics(folder, after_step=trainer.step)
        tracking = Tracking(experiment, folder, trainer.step)
        checkpoints.prune()
    torch.distributed.barrier()
    stops = False
    for metrics in trainer.steps():
        stops = trainer.any_rank(trainer.rank == 0 and ray.get(heartbeats.is_stop_requested.remote()))
        is_due = trainer.is_checkpoint_due or stops
        if trainer.is_checkpoint_due:
            with explain_out_of_memory("train", f"the holdout after step {trainer.step}"):
                metrics |= trainer.measure_holdout()
        if settings.keep == "best" and trainer.is_best(metrics):
            _export(trainer, folder / MODEL, chat)
        if log is not None and tracking is not None:
            log.append(metrics, flush=is_due)
            tracking.log(metrics, flush=is_due)
        if is_due:
            checkpoints.write(
                trainer.step, trainer.rank, lambda state: save_state(trainer, state), torch.distributed.barrier
            )
        if stops:
            break
    if tracking is not None:
        tracking.close()
    if trainer.step < trainer.num_steps:
        return Stopped(
            f"train: stopped after step {trainer.step} of {trainer.num_steps}; run the same command again to resume"
        )
    if settings.keep == "last":
        _export(trainer, folder / MODEL, chat)
    return None


def _export(trainer: Trainer, target: Folder, chat: Chat) -> None:
    """Write the model to a staging folder first, so that the target is a whole model or none."""
    local = target.local_path
    with tempfile.TemporaryDirectory() as temporary:
        staging = Path(temporary) if local is None else local.with_name(f".{local.name}.partial")
        if local is not None and trainer.rank == 0:
            shutil.rmtree(staging, ignore_errors=True)  # left by a run that was killed in mid-export
        export_model(trainer, staging, chat)
        if trainer.rank == 0:
            target.delete()
            if local is not None:
                staging.rename(local)
            else:
                fs.copy_files(temporary, target.path, destination_filesystem=target.filesystem)
