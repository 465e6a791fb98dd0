"""A trainer's state in a checkpoint's folder, to which every worker writes its part."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ossft_ray.common.errors import JobError
from ossft_ray.config import Train
from ossft_ray.engines.training.trainer import Trainer

TAG, PROGRESS, _REFERENCE = "state", "progress.json", "reference.npy"  # names inside a checkpoint


def save_state(trainer: Trainer, folder: Path) -> None:
    """Write this worker's part of the state into `folder`; the parts of all workers together are a checkpoint."""
    trainer.engine.save_checkpoint(str(folder), tag=TAG)
    if trainer.rank == 0:
        if trainer.reference is not None and trainer.settings.loss == "psft":
            np.save(folder / _REFERENCE, trainer.reference.numpy())
        sharding, norms = _sharding(trainer.settings, trainer.num_workers), [*trainer.gradient_watch.norms]
        progress = {"step": trainer.step, "best": trainer.best, "layout": sharding, "grad_norms": norms}
        (folder / PROGRESS).write_text(json.dumps(progress))


def load_state(trainer: Trainer, folder: Path, universal: Path | None = None) -> None:
    """Resume from a checkpoint, exactly where it was written; `universal` if it was converted for these workers."""
    trainer.engine.load_checkpoint(str(universal or folder), tag=TAG)
    progress = json.loads((folder / PROGRESS).read_text())
    trainer.step, trainer.best = progress["step"], progress["best"]
    trainer.gradient_watch.norms.extend(progress["grad_norms"])
    if (folder / _REFERENCE).exists():
        trainer.reference = torch.from_numpy(np.load(folder / _REFERENCE))


def needs_universal(progress: dict[str, Any], settings: Train, num_workers: int) -> bool:
    """Whether another number of workers wrote the checkpoint with this `PROGRESS`, so that its shards do not fit these.

    Raises:
        JobError: it was written with another ZeRO stage or precision, which changes more than the number of shards.
    """
    before, now = progress["layout"], _sharding(settings, num_workers)
    for key in ("zero_stage", "precision"):
        if before[key] != now[key]:
            raise JobError(
                f"train: the checkpoint was written with train.{key} = {before[key]}, not {now[key]}; "
                f"resume with {before[key]}, or pass --start-over"
            )
    is_sharded = settings.zero_stage > 0 or settings.precision == "bf16"
    return is_sharded and before["num_train_workers"] != now["num_train_workers"]


def _sharding(settings: Train, num_workers: int) -> dict[str, Any]:
    """What must be the same to load a DeepSpeed checkpoint."""
    return {"num_train_workers": num_workers, "zero_stage": settings.zero_stage, "precision": settings.precision}
