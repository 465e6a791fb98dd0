"""How does a batch go through the policy? Dealt to the workers, collated and passed forward; training as scoring."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ossft_ray.config import Train
from ossft_ray.engines.token_loss import Context
from ossft_ray.engines.training.batches import Examples, Tensors, collate, deal_micro_batches
from ossft_ray.method.packing import MicroBatch


class Pass(NamedTuple):
    """One micro-batch's Σ c_t · (-log p_t), and what it is made of; see `TokenLosses`."""

    tensors: Tensors
    loss: Tensor
    logprob_N: Tensor
    coefficient_N: Tensor
    entropy_N: Tensor


def deal(settings: Train, examples: Examples, batch: list[int], num_workers: int, flat: bool) -> list[list[MicroBatch]]:
    """The micro-batches of each worker, as `[train]` has them; `flat` as in `load_model`."""
    max_tokens = settings.max_length if settings.micro_batch_tokens == "auto" else settings.micro_batch_tokens
    row_tokens = max_tokens if flat else settings.max_length
    return deal_micro_batches(examples.lengths[batch].tolist(), num_workers, max_tokens, row_tokens, settings.packing)


def forward(
    module: Any,
    device: torch.device | str,
    examples: Examples,
    batch: list[int],
    rows: MicroBatch,
    flat: bool,
    reference: Tensor | None = None,
    progress: float = 1.0,
) -> Pass:
    """One micro-batch through a `PolicyLoss`; `reference` is log q of all examples' response tokens, in main memory."""
    tensors = collate(examples, batch, rows, flat)
    logq_N = None if reference is None else reference[tensors.places_N].to(device)
    logb_N = None
    if examples.behavior_logprobs is not None:
        logb_N = torch.from_numpy(examples.behavior_logprobs[tensors.places_N.numpy()]).to(device)
    tensors = tensors.to(device)
    return Pass(tensors, *module(tensors, Context(logq_N, tensors.response_N, progress, logb_N)))
