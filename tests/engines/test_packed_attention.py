"""Packed rows, with a mask and without one, give each example the logits that it has alone."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoModelForCausalLM

from ossft_ray.common.playground_paths import POLICY_FOLDER
from ossft_ray.config import Policy, Train
from ossft_ray.engines import packed_attention
from ossft_ray.engines.training.batches import Examples, TokenizedExample, collate
from ossft_ray.engines.training.policy_model import load_model


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(POLICY_FOLDER, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def packed_model():
    """As training loads it, with attention within each example of a packed row."""
    model, packed = load_model(Policy(model="playground"), Train(precision="fp32"))
    assert packed
    return model.eval()


def _examples() -> Examples:
    rng = np.random.default_rng(0)
    lengths = [(5, 30), (1, 1), (60, 90), (2, 1), (17, 44)]  # some of the shortest possible
    prompts = [rng.integers(3, 400, prompt).tolist() for prompt, _ in lengths]
    responses = [rng.integers(3, 400, response).tolist() for _, response in lengths]
    return Examples.build(list(map(TokenizedExample, "abcde", prompts, responses)))


@pytest.mark.parametrize(
    "rows",
    [[[0, 1, 2, 3, 4]], [[4, 3, 2, 1, 0]], [[1, 3, 1, 3]], [[2, 0], [4, 1, 3]], [[0], [1], [2], [3], [4]]],
    ids=["one row", "reversed", "shortest", "two rows, padded", "unpacked, padded"],
)
def test_packed_logits_equal_unpacked_ones(model, rows: list[list[int]]) -> None:
    examples = _examples()
    tensors = collate(examples, list(range(len(examples))), rows)
    with torch.no_grad():
        logits_BTV = model(tensors.input_ids_BT, position_ids=tensors.position_ids_BT, use_cache=False).logits
        packed_NV = logits_BTV.flatten(0, 1)[tensors.predictor_index_N]
        alone = []
        for index in (index for row in rows for index in row):
            tokens = torch.from_numpy(examples.token_ids[examples.offsets[index] : examples.offsets[index + 1]]).long()
            alone.append(model(tokens[None]).logits[0, examples.prompt_lengths[index] - 1 : -1])
    torch.testing.assert_close(packed_NV, torch.cat(alone), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [1, 3, 1, 3], [2]], ids=str)
def test_logits_in_one_packed_row_equal_those_of_each_example_alone(model, packed_model, order: list[int]) -> None:
    examples = _examples()
    tensors = collate(examples, list(range(len(examples))), [[index] for index in order], packed=True)
    assert tensors.input_ids_BT.shape == (1, sum(int(examples.lengths[index]) for index in order))  # no padding
    with torch.no_grad():
        logits_TV = packed_model(
            tensors.input_ids_BT,
            position_ids=tensors.position_ids_BT,
            cu_seqlens=tensors.cu_seqlens,
            max_seqlen=int(tensors.cu_seqlens.diff().max()),
            use_cache=False,
        ).logits[0]
        alone = []
        for index in order:
            tokens = torch.from_numpy(examples.token_ids[examples.offsets[index] : examples.offsets[index + 1]]).long()
            alone.append(model(tokens[None]).logits[0])
    torch.testing.assert_close(logits_TV, torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_without_cu_seqlens_examples_in_a_packed_row_would_leak(packed_model) -> None:
    """A guard: the test above can fail."""
    examples = _examples()
    tensors = collate(examples, list(range(5)), [[0, 4]], packed=True)
    arguments = {"position_ids": tensors.position_ids_BT, "use_cache": False}
    with torch.no_grad():
        apart = packed_model(tensors.input_ids_BT, cu_seqlens=tensors.cu_seqlens, max_seqlen=96, **arguments).logits
        leaking = packed_model(tensors.input_ids_BT, **arguments).logits
    assert (apart - leaking)[0, 40:].abs().max() > 0.1


def test_without_restarting_positions_examples_would_leak(model) -> None:
    """A guard: the comparison of logits fails if attention crosses from one example to the next."""
    examples = _examples()
    tensors = collate(examples, list(range(5)), [[0, 4]])
    crossing_1T = torch.arange(tensors.input_ids_BT.shape[1])[None]
    with torch.no_grad():
        packed = model(tensors.input_ids_BT, position_ids=tensors.position_ids_BT, use_cache=False).logits
        crossed = model(tensors.input_ids_BT, position_ids=crossing_1T, use_cache=False).logits
    assert (packed - crossed)[0, 40:].abs().max() > 0.1


def _varlen_attn_2_11(
    query_THD: Tensor,
    key_TGD: Tensor,
    value_TGD: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    return_aux: Any = None,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
) -> Tensor:
    """PyTorch 2.11's signature, which has no `enable_gqa`; its kernel takes grouped heads nevertheless."""
    assert window_size == (-1, 0) and max_q == max_k == cu_seq_q.diff().max()
    examples = (
        [tensor[start:end].transpose(0, 1) for tensor in (query_THD, key_TGD, value_TGD)]
        for start, end in itertools.pairwise(cu_seq_k.tolist())
    )
    outputs = [scaled_dot_product_attention(*each, is_causal=True, scale=scale, enable_gqa=True) for each in examples]
    return torch.cat(outputs, dim=1).transpose(0, 1)


def _varlen_attn_2_13(*arguments: Any, enable_gqa: bool = False, **options: Any) -> Tensor:
    assert enable_gqa == (arguments[0].shape[1] != arguments[1].shape[1]), "it refuses grouped heads otherwise"
    return _varlen_attn_2_11(*arguments, **options)


@pytest.mark.parametrize("varlen_attn", [_varlen_attn_2_11, _varlen_attn_2_13])
@pytest.mark.parametrize("num_key_heads", [2, 4])
def test_flash_attention_is_called_as_each_pytorch_release_expects(
    varlen_attn: Any, num_key_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_attention, "varlen_attn", varlen_attn)
    monkeypatch.setattr(packed_attention, "_ASKS_FOR_GQA", varlen_attn is _varlen_attn_2_13)
    query_1HTD, key_1GTD = torch.randn(1, 4, 9, 8), torch.randn(1, num_key_heads, 9, 8)
    cu_seqlens = torch.tensor([0, 5, 9], dtype=torch.int32)
    inputs = (torch.nn.Module(), query_1HTD, key_1GTD, key_1GTD, None, 0.3)
    plain, _ = packed_attention.packed_attention(*inputs, cu_seqlens=cu_seqlens, max_seqlen=5)
    fast = packed_attention._flash_attention(query_1HTD, key_1GTD, key_1GTD, 0.3, cu_seqlens, 5, num_key_heads < 4)
    torch.testing.assert_close(fast, plain)
