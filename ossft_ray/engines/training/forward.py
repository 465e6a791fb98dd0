"""A batch's way through the policy, in training and scoring alike: assigned to workers, collated, passed forward."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ossft_ray.config import Train
from ossft_ray.engines.token_loss import LossInputs, TokenLosses
from ossft_ray.engines.training.batches import Examples, MicroBatchTensors, assign_micro_batches, collate
from ossft_ray.engines.training.pass_size import PassSize
from ossft_ray.method.packing import MicroBatch


class ForwardOutput(NamedTuple):
    """One micro-batch, and Σ c_t · (-log p_t) over its response tokens."""

    tensors: MicroBatchTensors
    losses: TokenLosses


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
        with_ranks: bool = False,
    ) -> ForwardOutput:
        """One micro-batch; `reference` is log q of all examples' response tokens, in main memory."""
        tensors = collate(examples, batch, rows, self.packed)
        index_N = tensors.response_index_N
        logq_N = None if reference is None else reference[index_N].to(self.device)
        behavior = examples.behavior_logprobs
        logb_N = None if behavior is None else torch.from_numpy(behavior[index_N.numpy()]).to(self.device)
        tensors = tensors.to(self.device)
        inputs = LossInputs(logq_N, tensors.response_N, progress, logb_N, with_ranks)
        return ForwardOutput(tensors, self.module(tensors, inputs))

    def logprobs(self, examples: Examples, batch: Sequence[int], reference: Tensor | None = None) -> Tensor:
        """log p of the batch's response tokens, in its order, in float32 in main memory; a collective call."""
        return self._token_values(examples, batch, reference)[0]

    def logprobs_and_ranks(self, examples: Examples, batch: Sequence[int]) -> Tensor:
        """log p of the batch's response tokens, and their ranks from 1 on, as two rows; see `logprobs`."""
        return self._token_values(examples, batch, with_ranks=True)

    @torch.no_grad()
    def _token_values(
        self, examples: Examples, batch: Sequence[int], reference: Tensor | None = None, with_ranks: bool = False
    ) -> Tensor:
        # float32 holds every rank below 2^24
        values = torch.zeros(2 if with_ranks else 1, int(examples.response_offsets[-1]))
        for rows in self.assign(examples, batch)[self.rank]:
            tensors, losses = self.forward(examples, batch, rows, reference, with_ranks=with_ranks)
            index_N = tensors.response_index_N.cpu()
            values[0, index_N] = losses.logprob_N.float().cpu()
            if losses.rank_N is not None:
                values[1, index_N] = losses.rank_N.float().cpu()
        shared = values[:, torch.from_numpy(examples.response_index(batch))].to(self.device)
        torch.distributed.all_reduce(shared)  # each token belongs to one worker, and the others hold a zero
        return shared.cpu()
