"""Which tokens a worker sees at a step: the examples as arrays, their seeded order, and a forward pass's tensors.

Letters in names: B rows, T tokens of a row, N response tokens of the whole micro-batch, R its examples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ossft_ray.common.types import ORIGINS
from ossft_ray.method.packing import MicroBatch, plan_micro_batches


@dataclass(frozen=True)
class Examples:
    """All training examples, end to end in one array, so that Ray shares them between processes without a copy."""

    problem_ids: list[str]
    token_ids: np.ndarray  # int32, prompt and response of each example in turn
    offsets: np.ndarray  # int64, num_examples + 1 places in token_ids
    prompt_lengths: np.ndarray  # int64, tokens
    origins: np.ndarray  # int8, places in ORIGINS
    reference_logprobs: np.ndarray | None = None  # float32, of the response tokens alone, end to end
    behavior_logprobs: np.ndarray | None = None  # likewise; 0 for the tokens of an expert

    @classmethod
    def build(
        cls,
        problem_ids: list[str],
        prompts: list[list[int]],
        responses: list[list[int]],
        origins: list[str] | None = None,
        reference_logprobs: list[list[float]] | None = None,
        behavior_logprobs: list[list[float]] | None = None,
    ) -> "Examples":
        """From token ids. Raises ValueError if a prompt is empty: its first response token would have no context."""
        if not all(prompts):
            raise ValueError("every prompt needs at least one token")
        rows = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
        lengths = np.array([0, *(len(row) for row in rows)], dtype=np.int64)
        token_ids = np.concatenate([np.array(row, dtype=np.int32) for row in rows])
        prompt_lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
        places = np.array([ORIGINS.index(origin) for origin in origins or ["expert"] * len(rows)], dtype=np.int8)
        reference = _end_to_end("reference", reference_logprobs, responses)
        behavior = _end_to_end("behavior", behavior_logprobs, responses)
        return cls(problem_ids, token_ids, lengths.cumsum(), prompt_lengths, places, reference, behavior)

    def __len__(self) -> int:
        return len(self.problem_ids)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each example, prompt included."""
        return np.diff(self.offsets)

    @cached_property
    def response_lengths(self) -> np.ndarray:
        return self.lengths - self.prompt_lengths

    @cached_property
    def response_offsets(self) -> np.ndarray:
        """Where each example's response begins in an array of all response tokens, and that array's length."""
        return np.concatenate([[0], self.response_lengths.cumsum()])


def _end_to_end(name: str, logprobs: list[list[float]] | None, responses: list[list[int]]) -> np.ndarray | None:
    if logprobs is None:
        return None
    if [len(of_one) for of_one in logprobs] != [len(response) for response in responses]:
        raise ValueError(f"every response token needs one {name} log-probability")
    return np.concatenate([np.array(of_one, dtype=np.float32) for of_one in logprobs])


class Tensors(NamedTuple):
    """One forward pass. Only the hidden states that predict a response token go on to the output head."""

    input_ids_BT: Tensor
    position_ids_BT: Tensor  # start again at 0 with each example
    boundaries: Tensor | None  # int32, where the examples of a packed row begin, and its end; None: rows of one each
    sources_N: Tensor  # places in the flattened B x T whose hidden states predict ...
    targets_N: Tensor  # ... these token ids
    response_N: Tensor  # 0 .. R-1
    places_N: Tensor  # in an array of all examples' response tokens
    origin_N: Tensor  # places in ORIGINS

    def to(self, device: torch.device | str) -> "Tensors":
        return Tensors(*(None if tensor is None else tensor.to(device, non_blocking=True) for tensor in self))


def num_steps(num_examples: int, global_batch_size: int, epochs: int) -> int:
    """Optimiser steps of the whole run; the last, partial batch of an epoch is a step too."""
    return epochs * -(-num_examples // global_batch_size)


def global_batch(lengths: np.ndarray, global_batch_size: int, seed: int, step: int) -> tuple[list[int], int]:
    """The examples of step `step` (counted from 0) and its epoch: a slice of a permutation seeded by (seed, epoch).

    Nothing else enters, so a resumed run sees exactly what the undisturbed one would have. The first epoch's batches
    are those of its permutation, but the one with the longest example comes first: memory runs out at the start of a
    run or never.
    """
    num_examples = len(lengths)
    epoch, index = divmod(step, num_steps(num_examples, global_batch_size, 1))
    order = np.random.default_rng((seed, epoch)).permutation(num_examples)
    if epoch == 0:
        heaviest = _heaviest(lengths[order], global_batch_size)
        index = {0: heaviest, heaviest: 0}.get(index, index)
    return order[index * global_batch_size : (index + 1) * global_batch_size].tolist(), epoch


def _heaviest(lengths: np.ndarray, global_batch_size: int) -> int:
    """The whole batch, of examples in this order, with the longest one; of those that tie, that with most tokens."""
    num_whole = max(1, len(lengths) // global_batch_size)
    batches = [lengths[start * global_batch_size :][:global_batch_size] for start in range(num_whole)]
    return max(range(num_whole), key=lambda index: (batches[index].max(), batches[index].sum()))


def deal_micro_batches(
    lengths: Sequence[int], num_workers: int, max_tokens: int, row_tokens: int, packing: bool
) -> list[list[MicroBatch]]:
    """One list of micro-batches a worker, all equally long: workers meet in collectives at each forward pass.

    A worker with nothing left to do gets empty micro-batches. Small batches are split so that nearly all have work.
    """
    fair_share = max(*lengths, -(-sum(lengths) // num_workers), 1)
    micro_batches = plan_micro_batches(lengths, min(max_tokens, fair_share), row_tokens, packing)
    micro_batches += [[] for _ in range(-len(micro_batches) % num_workers)]
    return [micro_batches[worker::num_workers] for worker in range(num_workers)]


def collate(examples: Examples, batch: Sequence[int], rows: MicroBatch, flat: bool = False) -> Tensors:
    """The tensors of a micro-batch, whose rows index into `batch`, which indexes into `examples`.

    With `flat` all examples stand end to end in a single row, with `boundaries` and without padding. Otherwise padding
    stands at the end of a row and continues the positions of its last example: under causal attention no token looks
    at it, and rows of one example each need no mask at all. An empty micro-batch is one dummy row whose loss is of no
    token.
    """
    if not rows:
        return _nothing(flat)
    if flat:
        rows = [[index for row in rows for index in row]]
    width = max(sum(int(examples.lengths[batch[index]]) for index in row) for row in rows)
    input_ids = np.zeros((len(rows), width), dtype=np.int64)
    position_ids = np.zeros((len(rows), width), dtype=np.int64)
    response_offsets = examples.response_offsets
    boundaries, sources, targets, lengths, places, origins = [0], [], [], [], [], []
    for number, row in enumerate(rows):
        start = 0
        for example in (batch[index] for index in row):
            tokens = examples.token_ids[examples.offsets[example] : examples.offsets[example + 1]]
            prompt_length = int(examples.prompt_lengths[example])
            input_ids[number, start : start + len(tokens)] = tokens
            position_ids[number, start:] = np.arange(width - start)
            first = number * width + start
            sources.append(np.arange(first + prompt_length - 1, first + len(tokens) - 1))
            targets.append(tokens[prompt_length:].astype(np.int64))
            lengths.append(len(tokens) - prompt_length)
            places.append(np.arange(response_offsets[example], response_offsets[example + 1]))
            origins.append(examples.origins[example])
            start += len(tokens)
            boundaries.append(start)
    return Tensors(
        torch.from_numpy(input_ids),
        torch.from_numpy(position_ids),
        torch.tensor(boundaries, dtype=torch.int32) if flat else None,
        torch.from_numpy(np.concatenate(sources)),
        torch.from_numpy(np.concatenate(targets)),
        torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths)),
        torch.from_numpy(np.concatenate(places)),
        torch.from_numpy(np.repeat(np.array(origins, dtype=np.int64), lengths)),
    )


def _nothing(flat: bool) -> Tensors:
    zeros_12, none_0 = torch.zeros(1, 2, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    boundaries = torch.tensor([0, 2], dtype=torch.int32) if flat else None
    return Tensors(zeros_12, torch.arange(2)[None], boundaries, *([none_0] * 5))
