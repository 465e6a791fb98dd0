"""Attention over examples that lie end to end in one row: each attends to itself alone, and nothing is padded.

transformers calls it by name, like its own implementations. On CUDA in half precision it is PyTorch's own
variable-length FlashAttention. Elsewhere it is causal attention, one example after the other, which costs the sum of
the squared lengths; a masked row would cost the square of their sum.
"""

import inspect
import itertools
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention

NAME = "ossft_packed"
# PyTorch 2.11 has no such argument, and its kernel takes grouped heads without it
_ASKS_FOR_GQA = "enable_gqa" in inspect.signature(varlen_attn).parameters


def register() -> str:
    """Make the implementation known to transformers; returns its name for `attn_implementation`.

    No mask is registered for it. transformers then makes none, and does not look for packed examples in the position
    ids, which would make each forward pass wait for the GPU.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)
    return NAME


def packed_attention(
    module: torch.nn.Module,
    query_1HTD: Tensor,
    key_1GTD: Tensor,
    value_1GTD: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each example; H heads, G key heads, T tokens of the row, D channels of a head.

    Args:
        cu_seqlens: int32, the offset of each example in the row, and the row's length; without it the row is one
            example.
        max_seqlen: tokens of the longest example.
    """
    num_tokens = query_1HTD.shape[2]
    if cu_seqlens is None:
        cu_seqlens, max_seqlen = torch.tensor([0, num_tokens], dtype=torch.int32, device=query_1HTD.device), num_tokens
    inputs, grouped = (query_1HTD, key_1GTD, value_1GTD), query_1HTD.shape[1] != key_1GTD.shape[1]
    if query_1HTD.is_cuda and query_1HTD.dtype in (torch.bfloat16, torch.float16) and not dropout:
        return _flash_attention(*inputs, scaling, cu_seqlens, max_seqlen, grouped), None
    return _one_after_the_other(*inputs, cu_seqlens, dropout_p=dropout, scale=scaling, enable_gqa=grouped), None


def _flash_attention(
    query_1HTD: Tensor,
    key_1GTD: Tensor,
    value_1GTD: Tensor,
    scaling: float | None,
    cu_seqlens: Tensor,
    max_seqlen: int | None,
    grouped: bool,
) -> Tensor:
    by_token = (tensor[0].transpose(0, 1).contiguous() for tensor in (query_1HTD, key_1GTD, value_1GTD))
    layout = (cu_seqlens, cu_seqlens, max_seqlen, max_seqlen)  # of queries and keys
    options: dict[str, Any] = {"scale": scaling, "window_size": (-1, 0)}  # causal
    if _ASKS_FOR_GQA:
        options["enable_gqa"] = grouped
    return varlen_attn(*by_token, *layout, **options)[None]


@torch.compiler.disable  # the number of examples would be part of the compiled program
def _one_after_the_other(query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, **options: Any) -> Tensor:
    examples = [slice(start, end) for start, end in itertools.pairwise(cu_seqlens.tolist())]
    outputs = [
        scaled_dot_product_attention(query[:, :, each], key[:, :, each], value[:, :, each], is_causal=True, **options)
        for each in examples
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2)
