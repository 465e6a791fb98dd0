"""The tokens that a worker sees at a step: examples as arrays, their seeded order, and a forward pass's tensors.

Letters in names: B rows, T tokens of a row, N response tokens of the whole micro-batch, R its examples.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ossft_ray.common.types import ORIGINS
from ossft_ray.method.packing import MicroBatch, plan_micro_batches


class TokenizedExample(NamedTuple):
    """A prompt and its response as token ids."""

    problem_id: str
    prompt: list[int]
    response: list[int]
    origin: str = "expert"  # one of ORIGINS, or the name of another source of rows
    reference_logprobs: list[float] | None = None  # one a response token; all examples have them, or none
    behavior_logprobs: list[float] | None = None  # likewise
    teacher_logprobs: list[float] | None = None  # likewise
    reference_masses: list[float] | None = None  # likewise


@dataclass(frozen=True)
class Examples:
    """All training examples, end to end in one array, which Ray shares between processes without a copy."""

    problem_ids: list[str]
    token_ids: np.ndarray  # int32, prompt and response of each example in turn
    offsets: np.ndarray  # int64, one more than examples: example i is token_ids[offsets[i] : offsets[i + 1]]
    prompt_lengths: np.ndarray  # int64, tokens
    origins: np.ndarray  # int8, indices into `source_names`
    reference_logprobs: np.ndarray | None = None  # float32, of the response tokens alone, end to end
    behavior_logprobs: np.ndarray | None = None  # likewise; 0 for the tokens of an expert
    source_names: tuple[str, ...] = ORIGINS  # and the names of other sources
    teacher_logprobs: np.ndarray | None = None  # as `reference_logprobs`
    reference_masses: np.ndarray | None = None  # likewise

    @classmethod
    def build(cls, examples: Sequence[TokenizedExample]) -> "Examples":
        """Join examples end to end.

        Raises:
            ValueError: there are no examples, a prompt is empty, or log-probabilities are given but not for every
                response token.
        """
        if not examples:
            raise ValueError("at least one example is needed")
        if not all(example.prompt for example in examples):
            raise ValueError("every prompt needs at least one token")
        source_names = (*ORIGINS, *sorted({each.origin for each in examples} - set(ORIGINS)))
        lengths = np.array([0, *(len(each.prompt) + len(each.response) for each in examples)], dtype=np.int64)
        return cls(
            problem_ids=[each.problem_id for each in examples],
            token_ids=np.concatenate([np.array(each.prompt + each.response, dtype=np.int32) for each in examples]),
            offsets=lengths.cumsum(),
            prompt_lengths=np.array([len(each.prompt) for each in examples], dtype=np.int64),
            origins=np.array([source_names.index(each.origin) for each in examples], dtype=np.int8),
            reference_logprobs=_join_values(examples, "reference_logprobs"),
            behavior_logprobs=_join_values(examples, "behavior_logprobs"),
            source_names=source_names,
            teacher_logprobs=_join_values(examples, "teacher_logprobs"),
            reference_masses=_join_values(examples, "reference_masses"),
        )

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
    def problem_weights(self) -> np.ndarray:
        """1/n for each of a problem's n examples, so that each problem counts alike; float64."""
        num_examples = Counter(self.problem_ids)
        return np.array([1 / num_examples[problem_id] for problem_id in self.problem_ids])

    @cached_property
    def response_offsets(self) -> np.ndarray:
        """Where each example's response begins in an array of all response tokens, and that array's length."""
        return np.concatenate([[0], self.response_lengths.cumsum()])

    def response_index(self, batch: Sequence[int] | np.ndarray) -> np.ndarray:
        """The indices of a batch's response tokens, in its order, in an array of all response tokens."""
        return _ranges(self.response_offsets[batch], self.response_lengths[batch])


def _join_values(examples: Sequence[TokenizedExample], name: str) -> np.ndarray | None:
    by_example = [getattr(example, name) for example in examples]
    if all(values is None for values in by_example):
        return None
    if [len(values or ()) for values in by_example] != [len(example.response) for example in examples]:
        raise ValueError(f"`{name}` must have one value for each response token of every example, or be None in all")
    return np.concatenate([np.array(values or (), dtype=np.float32) for values in by_example])


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """start, start + 1, ..., start + length - 1 for each start in turn, in one array."""
    ends = lengths.cumsum()
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1])


class MicroBatchTensors(NamedTuple):
    """One forward pass. Only the hidden states that predict a response token go on to the output head."""

    input_ids_BT: Tensor
    position_ids_BT: Tensor  # start again at 0 with each example
    cu_seqlens: Tensor | None  # int32, where examples begin in a packed row, and its length; None without packing
    max_seqlen: int | None  # tokens of the packed row's longest example; not a tensor, so nothing waits for a GPU
    predictor_index_N: Tensor  # indices into the flattened B x T, of the hidden states that predict ...
    targets_N: Tensor  # ... these token ids
    response_N: Tensor  # 0 .. R-1
    response_index_N: Tensor  # indices into an array of all examples' response tokens
    origin_N: Tensor  # indices into the examples' `source_names`

    def to(self, device: torch.device | str) -> "MicroBatchTensors":
        move = (each.to(device, non_blocking=True) if isinstance(each, Tensor) else each for each in self)
        return MicroBatchTensors(*move)


def num_steps(num_examples: int, global_batch_size: int, epochs: int) -> int:
    """Optimiser steps of the whole run; the last, partial batch of an epoch is a step too."""
    return epochs * -(-num_examples // global_batch_size)


def global_batch(lengths: np.ndarray, global_batch_size: int, seed: int, step: int) -> tuple[list[int], int]:
    """The examples of step `step` (counted from 0) and its epoch: a slice of a permutation seeded by (seed, epoch).

    Nothing else enters, so a resumed run sees exactly what an uninterrupted one sees. In the first epoch, the batch
    with the longest example swaps with the first batch: memory runs out at the start of a run or never.
    """
    num_examples = len(lengths)
    epoch, index = divmod(step, num_steps(num_examples, global_batch_size, 1))
    order = np.random.default_rng((seed, epoch)).permutation(num_examples)
    if epoch == 0:
        heaviest = _heaviest(lengths[order], global_batch_size)
        index = {0: heaviest, heaviest: 0}.get(index, index)
    return order[index * global_batch_size : (index + 1) * global_batch_size].tolist(), epoch


def example_weights(
    response_lengths: np.ndarray, mean_over: int | Literal["batch"], weight_R: np.ndarray | None = None
) -> np.ndarray | None:
    """The weight of each of a batch's examples in the mean over its tokens; None if all weigh 1.

    `weight_R` has the weights so far. If `mean_over` is a number, consecutive examples of the batch form groups of
    that size, the last perhaps smaller, and the loss is the mean over groups of the mean over a group's tokens. The sum
    of the weights over all tokens does not change.
    """
    if mean_over == "batch":
        return weight_R
    weight_R = np.ones(len(response_lengths)) if weight_R is None else weight_R
    weighted_R = weight_R * response_lengths
    starts = np.arange(0, len(response_lengths), mean_over)
    sum_G = np.add.reduceat(weighted_R, starts)
    share_G = weighted_R.sum() / (len(starts) * np.where(sum_G > 0, sum_G, 1))
    return np.asarray(weight_R * share_G.repeat(mean_over)[: len(response_lengths)])


def _heaviest(lengths: np.ndarray, global_batch_size: int) -> int:
    """The index of the full batch with the longest example; among equals, of the one with the most tokens."""
    num_full = max(1, len(lengths) // global_batch_size)
    batches = [lengths[start * global_batch_size :][:global_batch_size] for start in range(num_full)]
    return max(range(num_full), key=lambda index: (batches[index].max(), batches[index].sum()))


def assign_micro_batches(
    lengths: Sequence[int], num_workers: int, max_tokens: int, row_tokens: int, packing: bool
) -> list[list[MicroBatch]]:
    """One list of micro-batches per worker, all of the same length, because each forward pass is a collective call.

    A worker without work left gets empty micro-batches. Small batches are split so that nearly all workers have work.
    """
    fair_share = max(*lengths, -(-sum(lengths) // num_workers), 1)
    micro_batches = plan_micro_batches(lengths, min(max_tokens, fair_share), row_tokens, packing)
    micro_batches += [[] for _ in range(-len(micro_batches) % num_workers)]
    return [micro_batches[worker::num_workers] for worker in range(num_workers)]


def members_of(batch: Sequence[int], rows: MicroBatch) -> np.ndarray:
    """The examples of a micro-batch in the order in which `collate` numbers them. `rows` holds positions in `batch`."""
    return np.array([batch[index] for row in rows for index in row], dtype=np.int64)


def collate(examples: Examples, batch: Sequence[int], rows: MicroBatch, packed: bool = False) -> MicroBatchTensors:
    """Build the tensors of a micro-batch. `rows` holds positions in `batch`, and `batch` holds indices of `examples`.

    With `packed` all examples stand end to end in a single row, with `cu_seqlens` and without padding. Otherwise each
    row is padded at its end, and the padding continues the positions of the row's last example. No token attends to it
    under causal attention, so a row of one example needs no mask; where a row holds several, transformers separates
    them by their positions, which start again at 0. An empty micro-batch is one dummy row without a response.
    """
    if not rows:
        return _empty_micro_batch(packed)
    if packed:
        rows = [[index for row in rows for index in row]]
    members = members_of(batch, rows)
    lengths, prompt_lengths = examples.lengths[members], examples.prompt_lengths[members]
    response_lengths = examples.response_lengths[members]
    last_of_row = np.cumsum([len(row) for row in rows]) - 1
    row_lengths = np.diff(lengths.cumsum()[last_of_row], prepend=0)
    width = int(row_lengths.max())
    padded_lengths = lengths.copy()
    padded_lengths[last_of_row] += width - row_lengths
    starts = padded_lengths.cumsum() - padded_lengths  # in the flattened rows
    offsets = examples.offsets[members]
    input_ids = np.zeros(len(rows) * width, dtype=np.int64)
    input_ids[_ranges(starts, lengths)] = examples.token_ids[_ranges(offsets, lengths)]
    targets = examples.token_ids[_ranges(offsets + prompt_lengths, response_lengths)].astype(np.int64)
    return MicroBatchTensors(
        torch.from_numpy(input_ids.reshape(len(rows), width)),
        torch.from_numpy(_ranges(np.zeros_like(starts), padded_lengths).reshape(len(rows), width)),
        torch.tensor([0, *lengths.cumsum()], dtype=torch.int32) if packed else None,
        int(lengths.max()) if packed else None,
        torch.from_numpy(_ranges(starts + prompt_lengths - 1, response_lengths)),
        torch.from_numpy(targets),
        torch.from_numpy(np.repeat(np.arange(len(members)), response_lengths)),
        torch.from_numpy(examples.response_index(members)),
        torch.from_numpy(np.repeat(examples.origins[members].astype(np.int64), response_lengths)),
    )


def _empty_micro_batch(packed: bool) -> MicroBatchTensors:
    dummy_row_BT, nothing_N = torch.zeros(1, 2, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    cu_seqlens, max_seqlen = (torch.tensor([0, 2], dtype=torch.int32), 2) if packed else (None, None)
    return MicroBatchTensors(dummy_row_BT, torch.arange(2)[None], cu_seqlens, max_seqlen, *([nothing_N] * 5))
