"""The trained policy as a Hugging Face folder, which transformers and vLLM load."""

from pathlib import Path

import torch

from ossft_ray.engines.adapters import merge_adapters
from ossft_ray.engines.training.deepspeed_engine import gather_weights
from ossft_ray.engines.training.trainer import Trainer
from ossft_ray.policy.chat import Chat


def export_model(trainer: Trainer, folder: Path, chat: Chat) -> None:
    """Write the policy in the training dtype, adapters merged; worker 0 writes, and all must call this.

    Tokenizer and chat template are written too. The generation config stops at the tokens that end training rows.
    """
    model = trainer.engine.module.model
    weights = gather_weights(model, trainer.rank)
    if trainer.rank == 0:
        model.generation_config.eos_token_id = chat.stop_token_ids
        model.save_pretrained(folder, state_dict=merge_adapters(weights, trainer.settings.lora))
        chat.tokenizer.save_pretrained(folder)
    torch.distributed.barrier()
