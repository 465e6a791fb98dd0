"""Token embeddings that share their weight with the output head, with one gradient of that size in memory, not two.

Autograd would allocate a gradient for the head and another for the embedding, each as large as the whole table, and add
them. Here the head hands its gradient over to the embedding, whose backward pass always comes later and adds the rows
that were looked up. The weight receives its gradient once, as ZeRO's hooks expect.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ossft_ray.engines.token_loss import LossHead


class TiedEmbedding(torch.nn.Module):
    """Replaces a `torch.nn.Embedding` whose weight is also the head's."""

    def __init__(self, head: LossHead, padding_idx: int | None = None) -> None:
        super().__init__()
        self.weight, self.padding_idx = head.weight, padding_idx
        self._head_gradients = head.hand_over_gradients()

    def forward(self, ids_BT: Tensor) -> Tensor:
        """The weight's rows, B x T x C."""
        embedded_BTC: Tensor = _Lookup.apply(ids_BT, self.weight, self.padding_idx, self._head_gradients)
        return embedded_BTC


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, ids_BT: Tensor, weight_VC: Tensor, padding_idx: int | None, head_gradients: list[Tensor]
    ) -> Tensor:
        ctx.save_for_backward(ids_BT)
        ctx.shape, ctx.padding_idx, ctx.head_gradients = weight_VC.shape, padding_idx, head_gradients
        return torch.nn.functional.embedding(ids_BT, weight_VC)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BTC: Tensor) -> tuple[Tensor | None, ...]:
        (ids_BT,) = ctx.saved_tensors
        ids_N, grad_NC = ids_BT.flatten(), grad_BTC.flatten(0, -2)
        if ctx.padding_idx is not None:  # its row is not trained as an input
            grad_NC = grad_NC.masked_fill((ids_N == ctx.padding_idx)[:, None], 0)
        grad_VC = ctx.head_gradients.pop() if ctx.head_gradients else grad_NC.new_zeros(ctx.shape)
        if grad_VC.dtype not in (torch.float32, torch.float64):
            ids_N, grad_NC = _sum_by_id(ids_N, grad_NC)
        return None, grad_VC.index_add_(0, ids_N, grad_NC.to(grad_VC.dtype)), None, None


def _sum_by_id(ids_N: Tensor, grad_NC: Tensor) -> tuple[Tensor, Tensor]:
    """Unique ids, and the float32 sum of each one's rows; the rest of N is filled with zeros for id 0.

    In half precision a frequent token's row would lose what each of its many occurrences adds. The shapes do not
    depend on the ids, so nothing waits for the GPU.
    """
    sorted_N, order_N = ids_N.sort()
    position_N = sorted_N.diff(prepend=sorted_N[:1]).ne(0).cumsum(0)
    unique_N = torch.zeros_like(ids_N).scatter_(0, position_N, sorted_N)
    sums_NC = torch.zeros_like(grad_NC, dtype=torch.float32).index_add_(0, position_N, grad_NC[order_N].float())
    return unique_N, sums_NC
