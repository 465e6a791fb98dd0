"""The step loop that trains a policy, in each worker of a process group that the caller has made.

Every decision is the same on all workers, because each computes it from the same examples, seed and step number.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ossft_ray.config import Policy, Train
from ossft_ray.engines.training.batches import Examples, global_batch, num_steps
from ossft_ray.engines.training.deepspeed_engine import check_deepspeed_settings, shard_for_training, take_step
from ossft_ray.engines.training.diagnosis import GradientWatch, explain_out_of_memory, raise_if_not_finite
from ossft_ray.engines.training.flops import ModelSize, flops_utilization
from ossft_ray.engines.training.forward import PolicyRunner
from ossft_ray.engines.training.policy_model import PolicyLoss, load_model
from ossft_ray.engines.training.step_metrics import TokenSums
from ossft_ray.method.coefficients import make_loss
from ossft_ray.method.learning_rate import learning_rate_at
from ossft_ray.method.packing import MicroBatch, padding_share

OnPhase = Callable[[int, int, str], None]


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
        """Load the policy and shard it; `universal` if a universal checkpoint will be loaded.

        `on_phase` is called as each phase begins, with the step, the number of the forward pass within it, and
        `forward`, `backward`, `step` or `report`.

        Raises:
            InputError: the policy's logits are not a plain product with its output head, or the settings contradict
                each other.
            JobError: memory ran out.
        """
        check_deepspeed_settings(settings)
        self.settings, self.seed, self.examples, self.holdout = settings, seed, examples, holdout
        self.step = 0  # optimiser steps done
        self.num_steps = num_steps(len(examples), settings.global_batch_size, settings.epochs)
        self.best: float | None = None  # the best value on the holdout so far, see `holdout_value`
        self.gradient_watch = GradientWatch(settings.max_grad_norm_jump)
        self._on_phase = on_phase or (lambda step, number, phase: None)
        torch.manual_seed(seed)
        options = {key: value for key, value in settings.loss_options.items() if key != "refresh_every"}
        loss = make_loss(settings.loss, **options)
        with explain_out_of_memory("train", "loading the policy"):
            model, packed = load_model(policy, settings)
            self._model_size = ModelSize.of(model)
            self.engine = shard_for_training(PolicyLoss(model, loss), settings, universal)
        self.reference: Tensor | None = None  # log q of all examples' response tokens, in main memory
        if "reference_logprob_T" in loss.needs:
            given = examples.reference_logprobs
            self.reference = torch.zeros(int(examples.response_offsets[-1])) if given is None else torch.tensor(given)
        self._runner = PolicyRunner(self.engine, self.engine.device, settings, packed)
        self.rank, self.num_workers = self._runner.rank, self._runner.num_workers

    def steps(self) -> Iterator[dict[str, float]]:
        """Train to the end; yields each step's metrics, the same on every worker.

        Raises:
            JobError: the loss or the gradient norm is not a finite number, or memory ran out; names the step and its
                problems.
        """
        while self.step < self.num_steps:
            batch, epoch = self._batch(self.step)
            problem_ids = [self.examples.problem_ids[index] for index in batch]
            with explain_out_of_memory("train", f"step {self.step + 1}", problem_ids):
                metrics = self._train_step(batch, epoch, problem_ids)
            yield metrics

    def any_rank(self, flag: bool) -> bool:
        """Whether the flag is set on any worker; a collective call."""
        shared = torch.tensor(float(flag), device=self.engine.device)
        torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
        return bool(shared.item())

    @property
    def is_checkpoint_due(self) -> bool:
        return self.step % self.settings.checkpoint_every == 0 or self.step == self.num_steps

    def _batch(self, step: int) -> tuple[list[int], int]:
        return global_batch(self.examples.lengths, self.settings.global_batch_size, self.seed, step)

    def _train_step(self, batch: list[int], epoch: int, problem_ids: list[str]) -> dict[str, float]:
        settings = self.settings
        started = time.perf_counter()
        torch.manual_seed(hash((self.seed, self.step, self.rank)) % 2**63)  # so a model with dropout resumes exactly
        if settings.loss == "psft" and self.step % settings.psft.refresh_every == 0:
            self._refresh_reference(range(self.step, min(self.step + settings.psft.refresh_every, self.num_steps)))
        num_tokens = int(self.examples.response_lengths[batch].sum())
        assigned, pass_tokens = self._runner.assign(self.examples, batch), self._runner.pass_size.tokens
        metrics = self._accumulate_gradients(batch, assigned[self.rank])
        raise_if_not_finite("loss", metrics["loss"], self.step + 1, problem_ids)
        learning_rate = learning_rate_at(
            self.step, self.num_steps, settings.learning_rate, settings.warmup_ratio, settings.warmup_from_zero
        )
        num_passes = len(assigned[self.rank])
        self._on_phase(self.step + 1, num_passes, "step")
        grad_norm = take_step(self.engine, learning_rate)
        self.gradient_watch.raise_if_exploding(grad_norm, self.step + 1, problem_ids)
        self._runner.pass_size.grow()
        self.step += 1
        self._on_phase(self.step, num_passes, "report")
        seconds = time.perf_counter() - started
        lengths = self.examples.lengths[batch].tolist()
        filled = [rows for of_worker in assigned for rows in of_worker if rows]
        return {
            "step": self.step,
            "num_steps": self.num_steps,
            "epoch": epoch + 1,
            **metrics,
            "learning_rate": learning_rate,
            "grad_norm": grad_norm,
            "num_examples": len(batch),
            "num_tokens": num_tokens,  # of responses, as in tokens_per_second
            "seconds": seconds,
            "tokens_per_second": num_tokens / seconds,
            "padding_share": 0.0 if self._runner.packed else padding_share(filled, lengths),
            "pass_tokens": pass_tokens,
            "peak_memory_bytes": self._runner.pass_size.peak_bytes,
            **flops_utilization(self._model_size, lengths, seconds, self.num_workers, self.engine.device),
        }

    def _accumulate_gradients(self, batch: list[int], micro_batches: Sequence[MicroBatch]) -> dict[str, float]:
        """Forward and backward passes of this worker's share of the batch; returns the whole batch's token metrics."""
        sums = TokenSums(self.engine.device, self.examples.source_names)
        response_lengths = self.examples.response_lengths[batch]
        weight_R = self._runner.weights(self.examples, batch, self.settings.mean_over)
        total_weight = float(response_lengths.sum() if weight_R is None else response_lengths @ weight_R)
        for number, rows in enumerate(micro_batches):
            self.engine.set_gradient_accumulation_boundary(number == len(micro_batches) - 1)
            self._on_phase(self.step + 1, number, "forward")
            num_in_pass = int(sum(self.examples.lengths[batch[index]] for row in rows for index in row))
            with self._runner.pass_size.measured(number, num_in_pass):
                progress = self.step / self.num_steps
                output = self._runner.forward(self.examples, batch, rows, self.reference, progress, weight_R)
                sums.add(output)
                self._on_phase(self.step + 1, number, "backward")
                # the (weighted) mean over the response tokens of the *global* batch; DeepSpeed averages over workers,
                # which the factor undoes, so the gradient does not depend on how the batch was split
                self.engine.backward(output.losses.loss * (self.num_workers / total_weight), scale_wrt_gas=False)
        sums.reduce()
        return sums.metrics()

    def _refresh_reference(self, steps: range) -> None:
        """Make the current policy the reference for the examples of these steps."""
        assert self.reference is not None
        self.engine.eval()
        for step in steps:
            batch, _ = self._batch(step)
            logprobs = self._runner.logprobs(self.examples, batch, self.reference)
            self.reference[self.examples.response_index(batch)] = logprobs
        self.engine.train()

    @torch.no_grad()
    def measure_holdout(self) -> dict[str, float]:
        """Loss, cross-entropy and mean token probability on the holdout's problems; empty without a holdout."""
        holdout, size = self.holdout, self.settings.global_batch_size
        if holdout is None:
            return {}
        self.engine.eval()
        sums, reference = TokenSums(self.engine.device, holdout.source_names), None
        if holdout.reference_logprobs is not None:
            reference = torch.tensor(holdout.reference_logprobs)  # once, for all micro-batches
        elif self.reference is not None:
            reference = torch.zeros(int(holdout.response_offsets[-1]))
        for start in range(0, len(holdout), size):
            batch = range(start, min(start + size, len(holdout)))
            if reference is not None and holdout.reference_logprobs is None:  # psft's q is the current policy
                reference[holdout.response_index(batch)] = self._runner.logprobs(holdout, batch, reference)
            weight_R, progress = self._runner.weights(holdout, batch), self.step / self.num_steps
            for rows in self._runner.assign(holdout, batch)[self.rank]:
                sums.add(self._runner.forward(holdout, batch, rows, reference, progress, weight_R))
        sums.reduce()
        self.engine.train()
        metrics = sums.metrics()
        return {f"holdout_{name}": metrics[name] for name in ("loss", "cross_entropy", "mean_token_probability")}

    def is_best(self, metrics: dict[str, float]) -> bool:
        """Whether these holdout metrics are the best so far; remembers them if so."""
        value = holdout_value(metrics, self.settings.keep_by)
        if value is None or (self.best is not None and value >= self.best):
            return False
        self.best = value
        return True


def holdout_value(metrics: dict[str, Any], keep_by: str) -> float | None:
    """What `train.keep_by` compares, with a sign so that lower is better; None where the holdout was not measured."""
    value: float | None = metrics.get(f"holdout_{keep_by}")
    return -value if value is not None and keep_by == "mean_token_probability" else value
