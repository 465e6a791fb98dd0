"""Training a policy with DeepSpeed: the step loop, its checkpoints, and the export to a Hugging Face folder.

Runs in each worker of a process group that somebody else has made (Ray Train, or a test). Every decision is the
same on all workers, because all of them compute it from the same examples, seed and step number.
"""

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ossft_ray.config import Policy, Train
from ossft_ray.engines.batches import Examples, collate, deal_micro_batches, global_batch, num_steps
from ossft_ray.engines.chat import Chat, model_path
from ossft_ray.engines.token_loss import LossHead
from ossft_ray.errors import InputError, JobError
from ossft_ray.method.coefficients import COEFFICIENTS, Coefficient
from ossft_ray.method.packing import padding_share

_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
_TAG, _PROGRESS = "state", "progress.json"  # names inside a checkpoint


class PolicyLoss(torch.nn.Module):
    """The policy from token ids to its loss, as one module: DeepSpeed gathers sharded weights module by module."""

    def __init__(self, model: Any, coefficient: Coefficient) -> None:
        super().__init__()
        self.model = model
        model.set_output_embeddings(LossHead(model.get_output_embeddings().weight, coefficient))

    def forward(
        self, input_ids_BT: Tensor, position_ids_BT: Tensor, sources_N: Tensor, targets_N: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Σ c_t · (-log p_t) over the micro-batch's response tokens, and their logprob_N."""
        # without an attention mask transformers sees by the position ids where an example ends in a packed row
        outputs = self.model.base_model(input_ids_BT, position_ids=position_ids_BT, use_cache=False)
        hidden_NC = outputs.last_hidden_state.flatten(0, 1).index_select(0, sources_N)
        loss, logprob_N = self.model.get_output_embeddings()(hidden_NC, targets_N)
        return loss, logprob_N


class Trainer:
    """A policy under training. Makes collective calls: every worker must call the same methods in the same order."""

    def __init__(self, policy: Policy, settings: Train, seed: int, examples: Examples) -> None:
        """Load the policy and shard it.

        Raises:
            InputError: the policy's logits are not a plain product with its output head.
        """
        import deepspeed

        self.settings, self.seed, self.examples = settings, seed, examples
        self.step = 0  # optimiser steps done
        self.num_steps = num_steps(len(examples), settings.global_batch_size, settings.epochs)
        self.rank, self.num_workers = torch.distributed.get_rank(), torch.distributed.get_world_size()
        torch.manual_seed(seed)
        model = load_model(policy, settings.precision)
        module = PolicyLoss(model, COEFFICIENTS[settings.loss])
        # the optimizer is made here because one named in DeepSpeed's config compiles C++ when it starts; the
        # learning rate is set at each step
        optimizer = torch.optim.AdamW(
            module.parameters(), lr=0.0, betas=settings.betas, weight_decay=settings.weight_decay
        )
        # DeepSpeed would compile a shared-memory all-reduce too, which only its inference uses
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        self.engine, *_ = deepspeed.initialize(
            model=module, optimizer=optimizer, config=deepspeed_config(settings, self.num_workers)
        )
        if settings.zero_stage == 0:
            optimizer.state.clear()  # in bf16 it has taken an empty step, which Adam's bias correction would count
        self.engine.train()

    def steps(self) -> Iterator[dict[str, float]]:
        """Train on to the end; yields each step's metrics, the same on every worker.

        Raises:
            JobError: the loss or the gradient norm is not a finite number; names the step and its problems.
        """
        while self.step < self.num_steps:
            yield self._train_step()

    @property
    def is_checkpoint_due(self) -> bool:
        return self.step % self.settings.checkpoint_every == 0 or self.step == self.num_steps

    def _train_step(self) -> dict[str, float]:
        settings, examples = self.settings, self.examples
        started = time.perf_counter()
        torch.manual_seed(hash((self.seed, self.step, self.rank)) % 2**63)  # for a model with dropout to resume exactly
        batch, epoch = global_batch(len(examples), settings.global_batch_size, self.seed, self.step)
        lengths = examples.lengths[batch].tolist()
        num_tokens = int(examples.response_lengths[batch].sum())
        max_tokens = settings.max_length if settings.micro_batch_tokens == "auto" else settings.micro_batch_tokens
        dealt = deal_micro_batches(lengths, self.num_workers, max_tokens, settings.max_length, settings.packing)

        sums_3 = torch.zeros(3, dtype=torch.float64, device=self.engine.device)  # loss, -log p, p
        mine = dealt[self.rank]
        for number, rows in enumerate(mine):
            self.engine.set_gradient_accumulation_boundary(number == len(mine) - 1)
            tensors = collate(examples, batch, rows).to(self.engine.device)
            loss, logprob_N = self.engine(*tensors)
            sums_3 += torch.stack([loss.detach(), -logprob_N.sum(), logprob_N.exp().sum()])
            # the mean over the response tokens of the *global* batch; DeepSpeed averages over workers, which the
            # factor undoes, so the gradient does not depend on how the batch was split
            self.engine.backward(loss * (self.num_workers / num_tokens), scale_wrt_gas=False)
        learning_rate = learning_rate_at(self.step, self.num_steps, settings.learning_rate, settings.warmup_ratio)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = learning_rate
        torch.distributed.all_reduce(sums_3)
        loss_mean, cross_entropy, mean_probability = (sums_3 / num_tokens).tolist()
        self._refuse_non_finite("loss", loss_mean, batch)
        grad_norm = self._take_step()
        self._refuse_non_finite("gradient norm", grad_norm, batch)
        self.step += 1
        seconds = time.perf_counter() - started
        return {
            "step": self.step,
            "num_steps": self.num_steps,
            "epoch": epoch + 1,
            "loss": loss_mean,
            "cross_entropy": cross_entropy,
            "mean_token_probability": mean_probability,
            "learning_rate": learning_rate,
            "grad_norm": grad_norm,
            "num_examples": len(batch),
            "num_tokens": num_tokens,  # of responses, and so are the tokens per second
            "seconds": seconds,
            "tokens_per_second": num_tokens / seconds,
            "padding_share": padding_share([rows for worker in dealt for rows in worker if rows], lengths),
        }

    def _refuse_non_finite(self, name: str, value: float, batch: list[int]) -> None:
        if math.isfinite(value):
            return
        problems = ", ".join(self.examples.problem_ids[index] for index in batch[:8])
        more = f" and {len(batch) - 8} more" if len(batch) > 8 else ""
        raise JobError(
            f"train: the {name} of step {self.step + 1} is {value}; its problems: {problems}{more}; "
            'lower train.learning_rate, or set train.precision = "fp32"'
        )

    def _take_step(self) -> float:
        """Clip and step; returns the norm of the global batch's gradient before it was clipped."""
        norm: Any = None
        if isinstance(self.engine.optimizer, torch.optim.Optimizer):  # ZeRO stage 0 in fp32, which keeps no norm
            grads = [parameter.grad for parameter in self.engine.parameters() if parameter.grad is not None]
            norm = torch.nn.utils.get_total_norm(grads)
        self.engine.step()
        return float(self.engine.get_global_grad_norm() if norm is None else norm)

    def save_checkpoint(self, folder: Path) -> None:
        """Write this worker's part of the state into `folder`; the parts of all workers together are a checkpoint."""
        self.engine.save_checkpoint(str(folder), tag=_TAG)
        if self.rank == 0:
            (folder / _PROGRESS).write_text(json.dumps({"step": self.step, "layout": self._layout}))

    def load_checkpoint(self, folder: Path) -> None:
        """Go on from a checkpoint, exactly where it was written.

        Raises:
            JobError: it was written by another number of workers, or under another ZeRO stage.
        """
        progress = json.loads((folder / _PROGRESS).read_text())
        if progress["layout"] != self._layout:
            raise JobError(
                f"train: the checkpoint was written with {progress['layout']}, not {self._layout}; "
                "go on with those settings, or pass --start-over"
            )
        self.engine.load_checkpoint(str(folder), tag=_TAG)
        self.step = progress["step"]

    @property
    def _layout(self) -> dict[str, int]:
        """What a DeepSpeed checkpoint can only be loaded with."""
        return {"num_train_workers": self.num_workers, "zero_stage": self.settings.zero_stage}

    def export(self, folder: Path, chat: Chat) -> None:
        """Write the policy as a Hugging Face folder in the training dtype; worker 0 writes, all take part.

        Tokenizer and chat template come along, and the generation config stops where the training rows end.
        """
        model = self.engine.module.model
        weights = _gather_weights(model, self.rank)
        if self.rank == 0:
            model.generation_config.eos_token_id = chat.stop_token_ids
            model.save_pretrained(folder, state_dict=weights)
            chat.tokenizer.save_pretrained(folder)
        torch.distributed.barrier()


def load_model(policy: Policy, precision: str) -> Any:
    """The policy as transformers has it, in the training dtype.

    Raises:
        InputError: its logits are not a plain product with its output head (a bias, a scale, a soft cap), which the
            chunked loss would get silently wrong.
    """
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        model_path(policy.model), revision=policy.revision, dtype=_DTYPES[precision]
    )
    probe_BT = torch.arange(4)[None]
    with torch.no_grad():
        hidden_BTC = model.base_model(probe_BT, use_cache=False).last_hidden_state
        plain_BTV = hidden_BTC @ model.get_output_embeddings().weight.T
        logits_BTV = model(probe_BT, use_cache=False).logits
    if not torch.allclose(plain_BTV, logits_BTV, rtol=0.05, atol=0.05 * logits_BTV.abs().max().item()):
        raise InputError(
            f"[policy] model: the logits of {policy.model} are not its hidden states times its output head; "
            "such models cannot be trained here yet"
        )
    return model


def deepspeed_config(settings: Train, num_workers: int) -> dict[str, Any]:
    """DeepSpeed's own settings. Batch sizes are nominal: the step loop says itself where a step ends."""
    bf16 = settings.precision == "bf16"
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "train_batch_size": num_workers,
        "gradient_clipping": settings.max_grad_norm,
        "bf16": {"enabled": bf16},
        "zero_optimization": {"stage": settings.zero_stage},
        "steps_per_print": 2**31,
    }
    if bf16 and settings.zero_stage > 0:  # stage 0 has no such thing
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config


def learning_rate_at(step: int, num_steps: int, peak: float, warmup_ratio: float) -> float:
    """Linear warm-up over the first `warmup_ratio` of the steps, then cosine to zero; `step` counts from 0.

    The first step already moves and so does the last: zero lies just outside the run at either end.
    """
    num_warmup = int(warmup_ratio * num_steps)
    if step < num_warmup:
        return peak * (step + 1) / (num_warmup + 1)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - num_warmup) / (num_steps - num_warmup)))


def _gather_weights(model: Any, rank: int) -> dict[str, Tensor]:
    """The whole weights in main memory on worker 0, gathered one parameter at a time; nothing on the others."""
    import deepspeed

    weights = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        with deepspeed.zero.GatheredParameters([tensor], enabled=hasattr(tensor, "ds_id")):
            if rank == 0:
                weights[name] = tensor.detach().cpu().clone()
    return weights
