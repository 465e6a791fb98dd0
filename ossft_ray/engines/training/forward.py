"""A batch's path through the policy, in training and scoring alike: assigned to workers, collated, passed forward."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ossft_ray.config import Train
from ossft_ray.engines.token_loss import LossInputs, TokenLosses
from ossft_ray.engines.training.batches import (
    Examples,
    MicroBatchTensors,
    assign_micro_batches,
    collate,
    example_weights,
)
from ossft_ray.engines.training.pass_size import PassSize
from ossft_ray.method.packing import MicroBatch


class ForwardOutput(NamedTuple):
    """One micro-batch, and Σ w_t · c_t · (-log p_t) over its response tokens."""

    tensors: MicroBatchTensors
    losses: TokenLosses
    weight_N: Tensor | None = None  # w; None where all are 1


class PolicyRunner:
    """A `PolicyLoss` on this worker's device, and this worker's share of each batch."""

    def __init__(self, module: Any, device: torch.device | str, settings: Train, packed: bool) -> None:
        """`packed` as from `load_model`."""
        self.module, self.device, self.settings, self.packed = module, device, settings, packed
        self.rank, self.num_workers = torch.distributed.get_rank(), torch.distributed.get_world_size()
        self.pass_size = PassSize(settings, device)

    def assign(self, examples: Examples, batch: Sequence[int]) -> list[list[MicroBatch]]:
        """The micro-batches of each worker, split as `[train]` says."""
        settings, max_tokens = self.settings, self.pass_size.tokens
        row_tokens = max_tokens if self.packed else settings.max_length
        lengths = examples.lengths[batch].tolist()
        return assign_micro_batches(lengths, self.num_workers, max_tokens, row_tokens, settings.packing)

    def forward(
        self,
        examples: Examples,
        batch: Sequence[int],
        rows: MicroBatch,
        reference: Tensor | None = None,
        progress: float = 1.0,
        weight_R: np.ndarray | None = None,
        with_ranks: bool = False,
    ) -> ForwardOutput:
        """One micro-batch; `reference` is log q of all examples' response tokens, in main memory.

        `weight_R` has a weight for the tokens of each example of the batch; by default all weigh 1.
        """
        tensors = collate(examples, batch, rows, self.packed)
        index_N = tensors.response_index_N
        logq_N = None if reference is None else reference[index_N].to(self.device)
        logb_N, teacher_N, mass_N = (
            None if values is None else torch.from_numpy(values[index_N.numpy()]).to(self.device)
            for values in (examples.behavior_logprobs, examples.teacher_logprobs, examples.reference_masses)
        )
        weight_N = None
        if weight_R is not None:
            members = [index for row in rows for index in row]
            weight_N = torch.from_numpy(weight_R[members])[tensors.response_N].to(self.device, torch.float32)
        tensors = tensors.to(self.device)
        inputs = LossInputs(logq_N, tensors.response_N, progress, logb_N, weight_N, with_ranks, teacher_N, mass_N)
        return ForwardOutput(tensors, self.module(tensors, inputs), weight_N)

    def weights(
        self, examples: Examples, batch: Sequence[int], mean_over: int | Literal["batch"] = "batch"
    ) -> np.ndarray | None:
        """The weight of each example of the batch, see `example_weights`; None if all weigh 1."""
        weight_R = examples.problem_weights[batch] if self.settings.weigh == "problems" else None
        return example_weights(examples.response_lengths[batch], mean_over, weight_R)

    def logprobs(self, examples: Examples, batch: Sequence[int], reference: Tensor | None = None) -> Tensor:
        """log p of the batch's response tokens, in its order, in float32 in main memory; a collective call."""
        return self._token_values(examples, batch, reference)[0]

    def token_scores(self, examples: Examples, batch: Sequence[int]) -> Tensor:
        """log p of the batch's response tokens, their ranks from 1 on, and their masses, as three rows; see `logprobs`.

        For scoring only: later passes grow into the memory left free, which a trainer needs for gradients.
        """
        values = self._token_values(examples, batch, for_scores=True)
        self.pass_size.grow()
        return values

    @torch.no_grad()
    def _token_values(
        self, examples: Examples, batch: Sequence[int], reference: Tensor | None = None, for_scores: bool = False
    ) -> Tensor:
        # float32 holds every rank below 2^24
        values = torch.zeros(3 if for_scores else 1, int(examples.response_offsets[-1]))
        for number, rows in enumerate(self.assign(examples, batch)[self.rank]):
            num_tokens = sum(int(examples.lengths[batch[index]]) for row in rows for index in row)
            with self.pass_size.measured(number, num_tokens) if for_scores else nullcontext():
                output = self.forward(examples, batch, rows, reference, with_ranks=for_scores)
            index_N = output.tensors.response_index_N.cpu()
            values[0, index_N] = output.losses.logprob_N.float().cpu()
            for row, values_N in enumerate((output.losses.rank_N, output.losses.mass_N), 1):
                if values_N is not None:
                    values[row, index_N] = values_N.float().cpu()
        shared = values[:, torch.from_numpy(examples.response_index(batch))].to(self.device)
        torch.distributed.all_reduce(shared)  # each token belongs to one worker, and the others hold a zero
        return shared.cpu()
