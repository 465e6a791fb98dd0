"""The training that the engine must equal, in plain PyTorch: one example at a time, all of its logits."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM

from ossft_ray.builtin import POLICY_FOLDER
from ossft_ray.config import Train
from ossft_ray.engines.batches import Examples, global_batch, num_steps
from ossft_ray.engines.deepspeed_engine import learning_rate_at


def train_plainly(settings: Train, seed: int, examples: Examples) -> list[dict[str, float]]:
    """Loss, cross-entropy and gradient norm of each step, in float32."""
    model = AutoModelForCausalLM.from_pretrained(POLICY_FOLDER, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), betas=settings.betas, weight_decay=settings.weight_decay)
    steps: list[dict[str, float]] = []
    total = num_steps(len(examples), settings.global_batch_size, settings.epochs)
    for step in range(total):
        batch, _ = global_batch(len(examples), settings.global_batch_size, seed, step)
        num_tokens = int(examples.response_lengths[batch].sum())
        sums: dict[str, Any] = {"loss": 0.0, "cross_entropy": 0.0}
        for index in batch:
            tokens = torch.from_numpy(examples.token_ids[examples.offsets[index] : examples.offsets[index + 1]]).long()
            prompt = int(examples.prompt_lengths[index])
            logprob_TV = model(tokens[None]).logits[0, prompt - 1 : -1].log_softmax(-1)
            logprob_T = logprob_TV.gather(1, tokens[prompt:, None])[:, 0]
            weight_T = logprob_T.detach().exp() if settings.loss == "dft" else 1.0
            loss = -(weight_T * logprob_T).sum() / num_tokens
            loss.backward()
            sums["loss"] += loss.item()
            sums["cross_entropy"] -= logprob_T.detach().sum().item() / num_tokens
        sums["grad_norm"] = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm).item()
        optimizer.param_groups[0]["lr"] = learning_rate_at(step, total, settings.learning_rate, settings.warmup_ratio)
        optimizer.step()
        optimizer.zero_grad()
        steps.append(sums)
    return steps
