"""What a trainer writes: its state into a checkpoint's folder, each worker its part, and the trained policy."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ossft_ray.common.errors import JobError
from ossft_ray.config import Train
from ossft_ray.engines.adapters import merge_adapters
from ossft_ray.engines.training.deepspeed_engine import gather_weights
from ossft_ray.engines.training.trainer import Trainer
from ossft_ray.policy.chat import Chat

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
    """Resume exactly where a checkpoint was written; `universal` is its conversion for these workers, if any."""
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
    return settings.engine_stage > 0 and before["num_train_workers"] != now["num_train_workers"]


def _sharding(settings: Train, num_workers: int) -> dict[str, Any]:
    """What must be the same to load a DeepSpeed checkpoint."""
    return {"num_train_workers": num_workers, "zero_stage": settings.zero_stage, "precision": settings.precision}


def export_model(trainer: Trainer, folder: Path, chat: Chat) -> None:
    """Write the policy as a Hugging Face folder, in the training dtype and with adapters merged.

    Worker 0 writes, and all must call this. Tokenizer and chat template are written too. The generation config stops at
    the tokens that end training rows.
    """
    model = trainer.engine.module.model
    weights = gather_weights(model, trainer.rank)
    if trainer.rank == 0:
        model.generation_config.eos_token_id = chat.stop_token_ids
        model.save_pretrained(folder, state_dict=merge_adapters(weights, trainer.settings.lora))
        chat.tokenizer.save_pretrained(folder)
    torch.distributed.barrier()
