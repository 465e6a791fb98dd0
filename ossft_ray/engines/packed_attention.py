"""Attention over examples that lie end to end in one row: each attends to itself alone, and nothing is padded.

transformers calls it by name, like its own implementations. On CUDA in half precision it is PyTorch's own
variable-length FlashAttention. Elsewhere it is causal attention of one example after the other, whose cost is the sum
of the squared lengths; a masked row would cost the square of their sum.
"""

import inspect
import itertools
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

NAME = "ossft_packed"


def register() -> str:
    """Make the implementation known to transformers; returns its name for `attn_implementation`."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, lambda *_, **__: None)  # cu_seqlens replaces the mask
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
    if query_1HTD.is_cuda and query_1HTD.dtype in (torch.bfloat16, torch.float16) and not dropout:
        return _flash_attention(query_1HTD, key_1GTD, value_1GTD, scaling, cu_seqlens, max_seqlen), None
    outputs = [
        scaled_dot_product_attention(
            query_1HTD[:, :, start:end],
            key_1GTD[:, :, start:end],
            value_1GTD[:, :, start:end],
            dropout_p=dropout,
            is_causal=True,
            scale=scaling,
            enable_gqa=query_1HTD.shape[1] != key_1GTD.shape[1],
        )
        for start, end in itertools.pairwise(cu_seqlens.tolist())
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def _flash_attention(
    query_1HTD: Tensor,
    key_1GTD: Tensor,
    value_1GTD: Tensor,
    scaling: float | None,
    cu_seqlens: Tensor,
    max_seqlen: int | None,
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    by_token = (tensor[0].transpose(0, 1).contiguous() for tensor in (query_1HTD, key_1GTD, value_1GTD))
    layout = (cu_seqlens, cu_seqlens, max_seqlen, max_seqlen)  # of queries and keys
    options: dict[str, Any] = {"scale": scaling, "window_size": (-1, 0)}  # causal
    # PyTorch 2.11 has no such argument, and its kernel takes grouped heads without it.
    if "enable_gqa" in inspect.signature(varlen_attn).parameters:
        options["enable_gqa"] = query_1HTD.shape[1] != key_1GTD.shape[1]
    return varlen_attn(*by_token, *layout, **options)[None]
