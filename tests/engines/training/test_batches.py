"""Examples as arrays, their batches, and the tensors of a micro-batch."""

from typing import Any

import numpy as np
import pytest

from ossft_ray.engines.training.batches import (
    Examples,
    TokenizedExample,
    assign_micro_batches,
    collate,
    example_weights,
    global_batch,
    num_steps,
)

EXAMPLES = Examples.build(
    [
        TokenizedExample("a", [1, 2], [10, 11, 12], "self"),
        TokenizedExample("b", [3], [13, 14], "expert"),
        TokenizedExample("c", [4, 5, 6], [15], "guided"),
    ]
)


def test_examples_keep_what_they_were_built_from() -> None:
    assert EXAMPLES.lengths.tolist() == [5, 3, 4]
    assert EXAMPLES.response_lengths.tolist() == [3, 2, 1]
    assert EXAMPLES.token_ids.tolist() == [1, 2, 10, 11, 12, 3, 13, 14, 4, 5, 6, 15]
    with pytest.raises(ValueError, match="at least one token"):
        Examples.build([TokenizedExample("a", [], [1])])
    with pytest.raises(ValueError, match="at least one example"):
        Examples.build([])


def test_the_examples_of_a_problem_share_a_weight_of_one() -> None:
    examples = Examples.build([TokenizedExample(name, [1], [2, 3]) for name in ("a", "b", "a", "c", "a", "b")])
    assert examples.problem_weights.tolist() == pytest.approx([1 / 3, 1 / 2, 1 / 3, 1, 1 / 3, 1 / 2])


@pytest.mark.parametrize("examples, batch, epochs, expected", [(22, 8, 2, 6), (8, 8, 1, 1), (9, 8, 1, 2), (3, 8, 4, 4)])
def test_num_steps(examples: int, batch: int, epochs: int, expected: int) -> None:
    assert num_steps(examples, batch, epochs) == expected


def test_each_epoch_sees_every_example_once_in_its_own_order() -> None:
    lengths = np.ones(22)
    steps = [global_batch(lengths, 8, seed=5, step=step) for step in range(6)]
    assert [epoch for _, epoch in steps] == [0, 0, 0, 1, 1, 1]
    assert [len(batch) for batch, _ in steps] == [8, 8, 6, 8, 8, 6]
    first, second = ([index for batch, epoch in steps if epoch == number for index in batch] for number in (0, 1))
    assert sorted(first) == sorted(second) == list(range(22)) and first != second
    assert global_batch(lengths, 8, seed=5, step=4) == steps[4]
    assert global_batch(lengths, 8, seed=6, step=4) != steps[4]


def test_the_heaviest_whole_batch_comes_first() -> None:
    lengths = np.arange(22) + 1
    by_step = [global_batch(lengths, 8, seed=5, step=step)[0] for step in range(3)]
    assert 21 in by_step[0] or (21 in by_step[2] and max(by_step[1]) < max(by_step[0]))
    plain = [global_batch(np.ones(22), 8, seed=5, step=step)[0] for step in range(3)]
    assert sorted(map(sorted, by_step)) == sorted(map(sorted, plain))  # the same batches in another order
    for heavy in range(22):
        lengths = np.where(np.arange(22) == heavy, 99, 1)
        first, *_, last = (global_batch(lengths, 8, seed=5, step=step)[0] for step in range(3))
        assert heavy in first or (heavy in last and len(last) == 6), "the partial batch stays last"


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("num_workers", [1, 2, 3, 8])
@pytest.mark.parametrize("max_tokens", [50, 120, 4000])
def test_each_example_is_assigned_once_and_workers_get_equally_many_passes(packing, num_workers, max_tokens) -> None:
    lengths = np.random.default_rng(0).integers(5, 100, 13).tolist()
    assigned = assign_micro_batches(lengths, num_workers, max_tokens, 200, packing)
    assert len({len(micro_batches) for micro_batches in assigned}) == 1 and len(assigned) == num_workers
    assert sorted(i for worker in assigned for rows in worker for row in rows for i in row) == list(range(13))
    assert sum(any(worker) for worker in assigned) >= num_workers - 1  # uneven lengths may leave one idle


def test_padded_rows() -> None:
    tensors = collate(EXAMPLES, [2, 0, 1], [[1, 2], [0]])  # rows: a then b, and c
    assert tensors.input_ids_BT.tolist() == [[1, 2, 10, 11, 12, 3, 13, 14], [4, 5, 6, 15, 0, 0, 0, 0]]
    assert tensors.position_ids_BT.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2], [0, 1, 2, 3, 4, 5, 6, 7]]
    assert tensors.predictor_index_N.tolist() == [1, 2, 3, 5, 6, 10]
    assert tensors.targets_N.tolist() == [10, 11, 12, 13, 14, 15]
    assert tensors.response_N.tolist() == [0, 0, 0, 1, 1, 2]
    assert tensors.response_index_N.tolist() == [0, 1, 2, 3, 4, 5]
    assert [EXAMPLES.source_names[code] for code in tensors.origin_N] == ["self"] * 3 + ["expert"] * 2 + ["guided"]
    assert tensors.cu_seqlens is None


def test_packed_row() -> None:
    tensors = collate(EXAMPLES, [2, 0, 1], [[0], [2, 1]], packed=True)  # c, b, a
    assert tensors.input_ids_BT.tolist() == [[4, 5, 6, 15, 3, 13, 14, 1, 2, 10, 11, 12]]
    assert tensors.position_ids_BT.tolist() == [[0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 3, 4]]
    assert tensors.cu_seqlens.tolist() == [0, 4, 7, 12]
    assert tensors.predictor_index_N.tolist() == [2, 4, 5, 8, 9, 10]
    assert tensors.targets_N.tolist() == [15, 13, 14, 10, 11, 12]
    assert tensors.response_index_N.tolist() == [5, 3, 4, 0, 1, 2]


def test_reference_logprobs_belong_to_response_tokens() -> None:
    first = TokenizedExample("a", [1, 2], [10], reference_logprobs=[-1.0])
    built = Examples.build([first, TokenizedExample("b", [3], [13, 14], reference_logprobs=[-2.0, -3.0])])
    assert built.reference_logprobs.tolist() == [-1.0, -2.0, -3.0] and built.response_offsets.tolist() == [0, 1, 3]
    without = first._replace(reference_logprobs=None)
    for examples in ([first._replace(response=[10, 11])], [first, without], [without, first]):
        with pytest.raises(ValueError, match="`reference_logprobs` must have one value for each"):
            Examples.build(examples)


def test_an_empty_micro_batch_has_no_targets() -> None:
    for packed in (False, True):
        tensors = collate(EXAMPLES, [0], [], packed)
        assert tensors.input_ids_BT.numel() > 0 and tensors.predictor_index_N.numel() == tensors.targets_N.numel() == 0


@pytest.mark.parametrize(
    "lengths, mean_over, expected",
    [
        ([1, 3, 4], "batch", None),
        # groups (1, 3) and (4,): both have 4 of 8 tokens
        ([1, 3, 4], 2, [1, 1, 1]),
        # groups (1, 1) and (6,): 8 / (2 * 2) and 8 / (2 * 6)
        ([1, 1, 6], 2, [2, 2, 2 / 3]),
        ([2, 6], 1, [2, 2 / 3]),
        ([5], 4, [1]),
    ],
)
def test_groups_of_examples_have_equal_weight(lengths: list[int], mean_over: Any, expected: list[float] | None) -> None:
    weight_R = example_weights(np.array(lengths), mean_over)
    assert (weight_R is None and expected is None) or weight_R.tolist() == pytest.approx(expected)
    if weight_R is not None:
        assert (weight_R * lengths).sum() == pytest.approx(sum(lengths)), "the mean weight of a token is 1"
