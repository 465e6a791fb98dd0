"""Attention over examples that lie end to end in one row: each looks at itself alone, and nothing is padded.

transformers calls it by name, like its own implementations. On CUDA in half precision it is PyTorch's variable-length
FlashAttention, which comes with PyTorch; elsewhere causal attention of one example after the other, which costs the
sum of the squared lengths where a masked row costs the square of their sum.
"""

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
    AttentionMaskInterface.register(NAME, lambda *_, **__: None)  # the boundaries say all that a mask would
    return NAME


def packed_attention(
    module: torch.nn.Module,
    query_1HTD: Tensor,
    key_1GTD: Tensor,
    value_1GTD: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    boundaries: Tensor | None = None,
    longest: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each example; H heads, G key heads, T tokens of the row, D of a head.

    Args:
        boundaries: int32, where examples begin in the row, and its end; the row is one example if not given.
        longest: tokens of the longest example.
    """
    num_tokens = query_1HTD.shape[2]
    if boundaries is None:
        boundaries, longest = torch.tensor([0, num_tokens], dtype=torch.int32, device=query_1HTD.device), num_tokens
    if query_1HTD.is_cuda and query_1HTD.dtype in (torch.bfloat16, torch.float16) and not dropout:
        from torch.nn.attention.varlen import varlen_attn

        query_THD, key_TGD, value_TGD = (
            tensor[0].transpose(0, 1).contiguous() for tensor in (query_1HTD, key_1GTD, value_1GTD)
        )
        output_THD = varlen_attn(
            query_THD,
            key_TGD,
            value_TGD,
            cu_seq_q=boundaries,
            cu_seq_k=boundaries,
            max_q=longest,
            max_k=longest,
            scale=scaling,
            window_size=(-1, 0),  # causal
            enable_gqa=query_THD.shape[1] != key_TGD.shape[1],
        )
        return output_THD[None], None
    places = boundaries.tolist()
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
        for start, end in itertools.pairwise(places)
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2), None
