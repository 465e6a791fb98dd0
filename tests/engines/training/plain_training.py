"""The training that the engine must equal, in plain PyTorch: one example at a time, all of its logits."""

from typing import Any

import peft
import torch
from transformers import AutoModelForCausalLM

from ossft_ray.common.playground_paths import POLICY_FOLDER
from ossft_ray.config import Train
from ossft_ray.engines.training.batches import Examples, global_batch, num_steps
from ossft_ray.method.coefficients import TokenStats, make_loss
from ossft_ray.method.learning_rate import learning_rate_at


def train_plainly(settings: Train, seed: int, examples: Examples) -> list[dict[str, float]]:
    """Loss, cross-entropy and gradient norm of each step, in float32."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(POLICY_FOLDER, dtype=torch.float32)
    if settings.lora is not None:
        model = peft.get_peft_model(
            model,
            peft.LoraConfig(
                r=settings.lora.rank, lora_alpha=settings.lora.alpha, target_modules="all-linear", task_type="CAUSAL_LM"
            ),
        )
    optimizer = torch.optim.AdamW(model.parameters(), betas=settings.betas, weight_decay=settings.weight_decay)
    options = dict(settings.loss_options)
    refresh_every = options.pop("refresh_every", None)
    loss_of = make_loss(settings.loss, **options).coefficient
    before = None  # the policy at psft's last refresh
    steps: list[dict[str, float]] = []
    total = num_steps(len(examples), settings.global_batch_size, settings.epochs)
    for step in range(total):
        batch, _ = global_batch(examples.lengths, settings.global_batch_size, seed, step)
        weight_of = [
            1 / examples.problem_ids.count(name) if settings.weigh == "problems" else 1.0
            for name in examples.problem_ids
        ]
        num_tokens = sum(weight_of[index] * int(examples.response_lengths[index]) for index in batch)
        sums: dict[str, Any] = {"loss": 0.0, "cross_entropy": 0.0}
        if refresh_every and step % refresh_every == 0:
            before = AutoModelForCausalLM.from_pretrained(POLICY_FOLDER, dtype=torch.float32)
            before.load_state_dict(model.state_dict())
        for index in batch:
            tokens = torch.from_numpy(examples.token_ids[examples.offsets[index] : examples.offsets[index + 1]]).long()
            prompt = int(examples.prompt_lengths[index])
            logprob_TV = _logprobs(model, tokens, prompt)
            logprob_T = logprob_TV.gather(1, tokens[prompt:, None])[:, 0]
            with torch.no_grad():
                if before is not None:
                    reference_T = _logprobs(before, tokens, prompt).gather(1, tokens[prompt:, None])[:, 0]
                elif examples.reference_logprobs is not None:
                    offsets = examples.response_offsets
                    reference_T = torch.from_numpy(examples.reference_logprobs[offsets[index] : offsets[index + 1]])
                else:
                    reference_T = None
                offsets = examples.response_offsets
                behavior_T, teacher_T = (
                    None if given is None else torch.from_numpy(given[offsets[index] : offsets[index + 1]])
                    for given in (examples.behavior_logprobs, examples.teacher_logprobs)
                )
                top_TK = logprob_TV.sort(-1, descending=True).values[:, :20].softmax(-1)
                stats = TokenStats(
                    logprob_T.detach(),
                    torch.special.entr(logprob_TV.exp()).sum(-1),
                    torch.special.entr(top_TK).sum(-1),
                    reference_T,
                    torch.zeros(len(logprob_T), dtype=torch.long),
                    step / total,
                    behavior_T,
                    logprob_TV.exp().square().sum(-1),
                    teacher_T,
                )
                coefficient_T = loss_of(stats)
            weight = weight_of[index]
            if settings.mean_over != "batch":  # the mean of the group's tokens, and then of the groups
                place = batch.index(index) // settings.mean_over * settings.mean_over
                in_group = int(examples.response_lengths[batch[place : place + settings.mean_over]].sum())
                weight = num_tokens / in_group / -(-len(batch) // settings.mean_over)
            loss = -weight * (coefficient_T * logprob_T).sum() / num_tokens
            loss.backward()
            sums["loss"] += loss.item()
            sums["cross_entropy"] -= weight * logprob_T.detach().sum().item() / num_tokens
        sums["grad_norm"] = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm).item()
        optimizer.param_groups[0]["lr"] = learning_rate_at(
            step, total, settings.learning_rate, settings.warmup_ratio, settings.warmup_from_zero
        )
        optimizer.step()
        optimizer.zero_grad()
        steps.append(sums)
    return steps


def _logprobs(model: Any, tokens: torch.Tensor, prompt: int) -> torch.Tensor:
    return model(tokens[None]).logits[0, prompt - 1 : -1].log_softmax(-1)
