"""Training a policy with DeepSpeed: the step loop, its checkpoints, and the export to a Hugging Face folder.

Runs in each worker of a process group that somebody else has made (Ray Train, or a test). Every decision is the
same on all workers, because all of them compute it from the same examples, seed and step number.
"""

import json
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ossft_ray.common.errors import JobError
from ossft_ray.config import Policy, Train
from ossft_ray.engines.training.batches import Examples, collate, global_batch, num_steps
from ossft_ray.engines.training.diagnosis import GradientWatch, explain_out_of_memory, refuse_non_finite
from ossft_ray.engines.training.flops import peak_flops, training_flops
from ossft_ray.engines.training.forward import deal, forward
from ossft_ray.engines.training.policy_model import PolicyLoss, load_model, merge_adapters, size_of
from ossft_ray.engines.training.settings import check_deepspeed_settings, deepspeed_config
from ossft_ray.engines.training.step_metrics import TokenSums
from ossft_ray.method.coefficients import make_loss
from ossft_ray.method.learning_rate import learning_rate_at
from ossft_ray.method.packing import MicroBatch, padding_share
from ossft_ray.policy.chat import Chat

OnPhase = Callable[[int, int, str], None]
TAG, _PROGRESS, _REFERENCE = "state", "progress.json", "reference.npy"  # names inside a checkpoint


class Trainer:
    """A policy under training. Makes collective calls: every worker must call the same methods in the same order."""

    def __init__(
        self,
        policy: Policy,
        settings: Train,
        seed: int,
        examples: Examples,
        holdout: Examples | None = None,
        universal: bool = False,
        on_phase: OnPhase | None = None,
    ) -> None:
        """Load the policy and shard it; `universal` if a checkpoint of that kind will be loaded.

        `on_phase` is called with the step, the number of the forward pass within it, and `forward`, `backward`, `step`
        or `report` as each begins.

        Raises:
            InputError: the policy's logits are not a plain product with its output head, or the settings contradict
                each other.
        """
        import deepspeed

        check_deepspeed_settings(settings)
        self.settings, self.seed, self.examples, self.holdout = settings, seed, examples, holdout
        self.step = 0  # optimiser steps done
        self._on_phase = on_phase or (lambda step, number, phase: None)
        self._gradients = GradientWatch(settings.max_grad_norm_jump)
        self.best: float | None = None  # what the best checkpoint so far came to on the holdout; lower is better
        self.num_steps = num_steps(len(examples), settings.global_batch_size, settings.epochs)
        self.rank, self.num_workers = torch.distributed.get_rank(), torch.distributed.get_world_size()
        torch.manual_seed(seed)
        model, self._flat = load_model(policy, settings)
        options = {key: value for key, value in settings.loss_options.items() if key != "refresh_every"}
        loss = make_loss(settings.loss, **options)
        module = PolicyLoss(model, loss)
        self._size = size_of(model)
        self._reference: Tensor | None = None  # log q of all examples' response tokens, in main memory
        if "reference_logprob_T" in loss.needs:
            given = examples.reference_logprobs
            self._reference = torch.zeros(int(examples.response_offsets[-1])) if given is None else torch.tensor(given)
        # the optimizer is made here because one named in DeepSpeed's config compiles C++ when it starts; the
        # learning rate is set at each step
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(
            trained, lr=0.0, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
        )
        # DeepSpeed would compile a shared-memory all-reduce too, which only its inference uses
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        self.engine, *_ = deepspeed.initialize(
            model=module, optimizer=optimizer, config=deepspeed_config(settings, self.num_workers, universal)
        )
        if self.num_workers == 1 and isinstance(self.engine.optimizer, torch.optim.Optimizer):
            self.engine.enable_backward_allreduce = False  # it would copy all gradients to itself
        if settings.zero_stage == 0:
            optimizer.state.clear()  # in bf16 it has taken an empty step, which Adam's bias correction would count
        self.engine.train()

    def steps(self) -> Iterator[dict[str, float]]:
        """Train on to the end; yields each step's metrics, the same on every worker.

        Raises:
            JobError: the loss or the gradient norm is not a finite number, or memory ran out; names the step and its
                problems.
        """
        while self.step < self.num_steps:
            problem_ids = [self.examples.problem_ids[index] for index in self._batch(self.step)[0]]
            with explain_out_of_memory(self.step + 1, problem_ids):
                metrics = self._train_step()
            yield metrics

    def agree(self, flag: bool) -> bool:
        """Whether any worker says so; a collective call."""
        shared = torch.tensor(float(flag), device=self.engine.device)
        torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
        return bool(shared.item())

    @property
    def is_checkpoint_due(self) -> bool:
        return self.step % self.settings.checkpoint_every == 0 or self.step == self.num_steps

    def _train_step(self) -> dict[str, float]:
        settings, examples = self.settings, self.examples
        started = time.perf_counter()
        torch.manual_seed(hash((self.seed, self.step, self.rank)) % 2**63)  # for a model with dropout to resume exactly
        if settings.loss == "psft" and self.step % settings.psft.refresh_every == 0:
            self._refresh_reference(range(self.step, min(self.step + settings.psft.refresh_every, self.num_steps)))
        batch, epoch = self._batch(self.step)
        num_tokens = int(examples.response_lengths[batch].sum())
        dealt = self._deal(examples, batch)

        sums = TokenSums(self.engine.device)
        mine = dealt[self.rank]
        for number, rows in enumerate(mine):
            self.engine.set_gradient_accumulation_boundary(number == len(mine) - 1)
            self._on_phase(self.step + 1, number, "forward")
            loss = self._forward(examples, batch, rows, self._reference, sums)
            self._on_phase(self.step + 1, number, "backward")
            # the mean over the response tokens of the *global* batch; DeepSpeed averages over workers, which the
            # factor undoes, so the gradient does not depend on how the batch was split
            self.engine.backward(loss * (self.num_workers / num_tokens), scale_wrt_gas=False)
        learning_rate = learning_rate_at(self.step, self.num_steps, settings.learning_rate, settings.warmup_ratio)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = learning_rate
        sums.reduce()
        metrics = sums.metrics()
        problem_ids = [examples.problem_ids[index] for index in batch]
        refuse_non_finite("loss", metrics["loss"], self.step + 1, problem_ids)
        self._on_phase(self.step + 1, len(mine), "step")
        grad_norm = self._take_step()
        self._gradients.refuse_explosion(grad_norm, self.step + 1, problem_ids)
        self.step += 1
        self._on_phase(self.step, len(mine), "report")
        seconds = time.perf_counter() - started
        lengths = examples.lengths[batch].tolist()
        passes = [rows for worker in dealt for rows in worker if rows]
        return {
            "step": self.step,
            "num_steps": self.num_steps,
            "epoch": epoch + 1,
            **metrics,
            "learning_rate": learning_rate,
            "grad_norm": grad_norm,
            "num_examples": len(batch),
            "num_tokens": num_tokens,  # of responses, and so are the tokens per second
            "seconds": seconds,
            "tokens_per_second": num_tokens / seconds,
            "padding_share": 0.0 if self._flat else padding_share(passes, lengths),
            "peak_memory_bytes": self._peak_memory(),
            **self._utilization(lengths, seconds),
        }

    def _peak_memory(self) -> int:
        """Of this worker so far: on its GPU, else in main memory."""
        if self.engine.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated())
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def _utilization(self, lengths: list[int], seconds: float) -> dict[str, float]:
        """Model FLOPs utilisation on GPUs whose peak is known."""
        peak = peak_flops(torch.cuda.get_device_name()) if self.engine.device.type == "cuda" else None
        if peak is None:
            return {}
        done = training_flops(*self._size, lengths)
        return {"model_flops_utilization": done / seconds / (peak * self.num_workers)}

    def _batch(self, step: int) -> tuple[list[int], int]:
        return global_batch(self.examples.lengths, self.settings.global_batch_size, self.seed, step)

    def _deal(self, examples: Examples, batch: list[int]) -> list[list[MicroBatch]]:
        return deal(self.settings, examples, batch, self.num_workers, self._flat)

    def _forward(
        self, examples: Examples, batch: list[int], rows: MicroBatch, reference: Tensor | None, sums: TokenSums | None
    ) -> Tensor:
        """One micro-batch's Σ c_t · (-log p_t), or its logprob_N where there is nothing to add them to."""
        progress = self.step / self.num_steps
        done = forward(self.engine, self.engine.device, examples, batch, rows, self._flat, reference, progress)
        if sums is None:
            return done.logprob_N
        sums.add(done.logprob_N, done.coefficient_N, done.entropy_N, done.tensors.origin_N)
        return done.loss

    @torch.no_grad()
    def _refresh_reference(self, steps: range) -> None:
        """Let q be the policy as it is now, for the examples of these steps."""
        assert self._reference is not None
        self.engine.eval()
        for step in steps:
            batch, _ = self._batch(step)
            values_by_place = torch.zeros(len(self._reference))
            for rows in self._deal(self.examples, batch)[self.rank]:
                logprob_N = self._forward(self.examples, batch, rows, self._reference, None)
                values_by_place[collate(self.examples, batch, rows, self._flat).places_N] = logprob_N.float().cpu()
            places = self._places(batch)
            values = values_by_place[places].to(self.engine.device)
            torch.distributed.all_reduce(values)
            self._reference[places] = values.cpu()
        self.engine.train()

    def _places(self, batch: list[int]) -> Tensor:
        offsets = self.examples.response_offsets
        return torch.from_numpy(np.concatenate([np.arange(offsets[index], offsets[index + 1]) for index in batch]))

    @torch.no_grad()
    def measure_holdout(self) -> dict[str, float]:
        """Loss and cross-entropy on the problems kept apart; nothing where there are none."""
        if self.holdout is None:
            return {}
        self.engine.eval()
        sums, size = TokenSums(self.engine.device), self.settings.global_batch_size
        reference = self.holdout.reference_logprobs
        for start in range(0, len(self.holdout), size):
            batch = list(range(start, min(start + size, len(self.holdout))))
            for rows in self._deal(self.holdout, batch)[self.rank]:
                given = torch.tensor(reference) if reference is not None else None
                if given is None and self._reference is not None:  # psft's q is the policy itself wherever it is new
                    given = torch.zeros(int(self.holdout.response_offsets[-1]))
                    places_N = collate(self.holdout, batch, rows, self._flat).places_N
                    given[places_N] = self._forward(self.holdout, batch, rows, given, None).float().cpu()
                self._forward(self.holdout, batch, rows, given, sums)
        sums.reduce()
        self.engine.train()
        metrics = sums.metrics()
        return {f"holdout_{name}": metrics[name] for name in ("loss", "cross_entropy", "mean_token_probability")}

    def is_best(self, metrics: dict[str, float]) -> bool:
        """Whether these holdout metrics are the best so far, and remembers them if so."""
        key = self.settings.keep_by
        if f"holdout_{key}" not in metrics:
            return False
        value = metrics[f"holdout_{key}"] * (-1 if key == "mean_token_probability" else 1)
        if self.best is not None and value >= self.best:
            return False
        self.best = value
        return True

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
        self.engine.save_checkpoint(str(folder), tag=TAG)
        if self.rank == 0:
            if self._reference is not None and self.settings.loss == "psft":
                np.save(folder / _REFERENCE, self._reference.numpy())
            layout = _layout(self.settings, self.num_workers)
            progress = {"step": self.step, "best": self.best, "layout": layout, "grad_norms": [*self._gradients.norms]}
            (folder / _PROGRESS).write_text(json.dumps(progress))

    def load_checkpoint(self, folder: Path, universal: Path | None = None) -> None:
        """Go on from a checkpoint, exactly where it was written; its weights and optimizer state from `universal`
        where another number of workers wrote it, see `needs_universal`."""
        self.engine.load_checkpoint(str(universal or folder), tag=TAG)
        progress = json.loads((folder / _PROGRESS).read_text())
        self.step, self.best = progress["step"], progress["best"]
        self._gradients.norms.extend(progress["grad_norms"])
        if (folder / _REFERENCE).exists():
            self._reference = torch.from_numpy(np.load(folder / _REFERENCE))

    def export(self, folder: Path, chat: Chat) -> None:
        """Write the policy as a Hugging Face folder in the training dtype; worker 0 writes, all take part.

        Tokenizer and chat template come along, and the generation config stops where the training rows end. Adapters
        are merged into the weights.
        """
        model = self.engine.module.model
        weights = _gather_weights(model, self.rank)
        if self.rank == 0:
            model.generation_config.eos_token_id = chat.stop_token_ids
            model.save_pretrained(folder, state_dict=merge_adapters(weights, self.settings.lora))
            chat.tokenizer.save_pretrained(folder)
        torch.distributed.barrier()


def own_device() -> str:
    """Where DeepSpeed puts this worker's tensors."""
    from deepspeed.accelerator import get_accelerator

    return str(get_accelerator().current_device_name())


def shard_for_inference(module: PolicyLoss, settings: Train, num_workers: int) -> Any:
    """The policy with its weights sharded over the workers, and no optimizer: ZeRO stage 3.

    Raises:
        InputError: see `check_deepspeed_settings`.
    """
    import deepspeed

    check_deepspeed_settings(settings)
    config = deepspeed_config(settings, num_workers)
    config["zero_optimization"].pop("offload_optimizer", None)
    engine, *_ = deepspeed.initialize(model=module, config=config)
    return engine


def needs_universal(folder: Path, settings: Train, num_workers: int) -> bool:
    """Whether another number of workers wrote this checkpoint, so that its shards do not fit these.

    Raises:
        JobError: it was written under another ZeRO stage, which changes more than the number of shards.
    """
    before, now = json.loads((folder / _PROGRESS).read_text())["layout"], _layout(settings, num_workers)
    if before["zero_stage"] != now["zero_stage"] or before["precision"] != now["precision"]:
        raise JobError(
            f"train: the checkpoint was written with {before}, not {now}; "
            "go on with those settings, or pass --start-over"
        )
    is_sharded = settings.zero_stage > 0 or settings.precision == "bf16"
    return is_sharded and before["num_train_workers"] != now["num_train_workers"]


def _layout(settings: Train, num_workers: int) -> dict[str, Any]:
    """What a DeepSpeed checkpoint can only be loaded with."""
    return {"num_train_workers": num_workers, "zero_stage": settings.zero_stage, "precision": settings.precision}


def _gather_weights(model: Any, rank: int) -> dict[str, Tensor]:
    """The whole weights in main memory on worker 0, gathered one parameter at a time; nothing on the others.

    Tied ones are one tensor under two names, as in the model, so that they are written once.
    """
    import deepspeed

    weights: dict[str, Tensor] = {}
    first_names: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        first = first_names.setdefault(id(tensor), name)
        if first != name:
            if rank == 0:
                weights[name] = weights[first]
            continue
        with deepspeed.zero.GatheredParameters([tensor], enabled=hasattr(tensor, "ds_id")):
            if rank == 0:
                weights[name] = tensor.detach().cpu().clone()
    return weights
