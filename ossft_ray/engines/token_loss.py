"""Hidden states and output head to loss and gradients, a chunk of tokens at a time: never the whole logits matrix.

The gradients are computed in the forward pass, while a chunk's logits exist, so what stays in memory until the
backward pass is the gradient of the hidden states and of the head; nothing of size tokens x vocabulary.
Letters in names: N response tokens, C hidden size, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ossft_ray.method.coefficients import Coefficient, TokenStats

# Elements of a chunk's logits, 256 MB in float32: one chunk for a small vocabulary, where chunking costs time and
# saves nothing; some 440 tokens at 152 thousand.
_CHUNK_ELEMENTS = 1 << 26


def token_loss(
    hidden_NC: Tensor, head_VC: Tensor, targets_N: Tensor, coefficient: Coefficient, chunk_tokens: int | None = None
) -> tuple[Tensor, Tensor]:
    """Σ_t c_t · (-log p_t) with c_t detached, and the log p_t of the same tokens.

    Args:
        hidden_NC: the hidden states that predict the targets; response tokens only.
        head_VC: the output head's weight.
        targets_N: the token ids to predict.
        coefficient: c_t from what is known of each token, see `method/coefficients.py`.
        chunk_tokens: tokens whose logits exist at once; chosen by the vocabulary's size if not given.

    Returns:
        The loss, a scalar with gradient -Σ c_t ∇log p_t, and logprob_N, detached; both in float32 (float64 for
        float64 inputs): the softmax is never taken in half precision.
    """
    if chunk_tokens is None:
        chunk_tokens = max(1, _CHUNK_ELEMENTS // head_VC.shape[0])
    return _TokenLoss.apply(hidden_NC, head_VC, targets_N, coefficient, chunk_tokens)


class LossHead(torch.nn.Module):
    """Takes the place of a model's output head, sharing its weight.

    A module, not a bare function, because ZeRO-3 gathers a sharded weight around the forward and backward pass of
    the module that owns it.
    """

    def __init__(self, weight: torch.nn.Parameter, coefficient: Coefficient) -> None:
        super().__init__()
        self.weight = weight
        self.coefficient = coefficient

    def forward(self, hidden_NC: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
        return token_loss(hidden_NC, self.weight, targets_N, self.coefficient)


class _TokenLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_NC: Tensor, head_VC: Tensor, targets_N: Tensor, coefficient: Coefficient, chunk_tokens: int
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(hidden_NC.dtype, torch.float32)
        needs_hidden, needs_head = ctx.needs_input_grad[:2]
        loss = hidden_NC.new_zeros((), dtype=wide)
        logprob_N = hidden_NC.new_empty(hidden_NC.shape[0], dtype=wide)
        grad_hidden_NC = torch.empty_like(hidden_NC) if needs_hidden else None
        grad_head_VC = torch.zeros_like(head_VC, dtype=wide) if needs_head else None

        for start in range(0, hidden_NC.shape[0], chunk_tokens):
            chunk = slice(start, start + chunk_tokens)
            hidden_TC, target_T1 = hidden_NC[chunk], targets_N[chunk, None]
            logprob_TV = torch.log_softmax((hidden_TC @ head_VC.T).to(wide), dim=-1)
            logprob_T = logprob_TV.gather(1, target_T1).squeeze(1)
            coefficient_T = coefficient(TokenStats(logprob_T))
            loss -= (coefficient_T * logprob_T).sum()
            logprob_N[chunk] = logprob_T
            if not (needs_hidden or needs_head):
                continue
            # ∂loss/∂logits = c · (softmax - onehot), written over the log-probabilities to keep one such matrix
            grad_TV = logprob_TV.exp_().mul_(coefficient_T[:, None])
            grad_TV.scatter_add_(1, target_T1, -coefficient_T[:, None])
            grad_TV = grad_TV.to(hidden_NC.dtype)
            if grad_hidden_NC is not None:
                torch.mm(grad_TV, head_VC, out=grad_hidden_NC[chunk])
            if grad_head_VC is not None:
                grad_head_VC += grad_TV.T @ hidden_TC

        ctx.grads = grad_hidden_NC, None if grad_head_VC is None else grad_head_VC.to(head_VC.dtype)
        ctx.mark_non_differentiable(logprob_N)
        return loss, logprob_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        grad_hidden_NC, grad_head_VC = ctx.grads
        ctx.grads = None  # used up: the memory goes as soon as autograd has passed it on
        for grad in (grad_hidden_NC, grad_head_VC):
            if grad is not None:
                grad.mul_(grad_loss)
        return grad_hidden_NC, grad_head_VC, None, None, None
