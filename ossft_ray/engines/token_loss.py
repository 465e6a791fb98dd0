"""Hidden states and output head to loss and gradients, a chunk of tokens at a time: never the whole logits matrix.

The gradients are computed in the forward pass, while a chunk's probabilities exist, so what stays in memory until the
backward pass is the gradient of the hidden states and of the head; nothing of size tokens x vocabulary.
Letters in names: N response tokens, T those of a chunk, C hidden size, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ossft_ray.method.coefficients import TOP, Loss, TokenStats

# Elements of a chunk's logits, 64 MB in float32 (and as much again for the probabilities): one chunk for a small
# vocabulary, where chunking costs time and saves nothing; some 110 tokens at 152 thousand on a CPU, whose caches like
# small chunks. A GPU wants larger products to stay busy.
_CHUNK_ELEMENTS = {"cpu": 1 << 24, "cuda": 1 << 27}


@dataclass(frozen=True)
class Context:
    """What some losses look at beside the policy itself; see `TokenStats` for the fields."""

    reference_logprob_N: Tensor | None = None
    response_N: Tensor | None = None
    progress: float = 1.0


@dataclass(frozen=True)
class TokenLosses:
    """Σ_t c_t · (-log p_t), differentiable, and what went into it, detached; in float32 or wider."""

    loss: Tensor  # a scalar with gradient -Σ c_t ∇log p_t
    logprob_N: Tensor
    coefficient_N: Tensor
    entropy_N: Tensor  # of the next-token distribution, in nats


def token_loss(
    hidden_NC: Tensor,
    head_VC: Tensor,
    targets_N: Tensor,
    loss: Loss,
    context: Context | None = None,
    chunk_tokens: int | None = None,
) -> TokenLosses:
    """The loss of response tokens, with c_t detached.

    Args:
        hidden_NC: the hidden states that predict the targets; response tokens only.
        head_VC: the output head's weight.
        targets_N: the token ids to predict.
        loss: a row of the loss table, see `method/coefficients.py`.
        context: what the loss needs beside the policy.
        chunk_tokens: tokens whose logits exist at once; chosen by the vocabulary's size if not given.

    The softmax is never taken in half precision: everything is float32 for such inputs, float64 for float64 ones.

    >>> hidden, head = torch.randn(5, 8, requires_grad=True), torch.randn(100, 8, requires_grad=True)
    >>> from ossft_ray.method.coefficients import make_loss
    >>> losses = token_loss(hidden, head, torch.tensor([3, 1, 4, 1, 5]), make_loss("dft"))
    >>> (losses.loss / 5).backward()  # the mean over the response's tokens
    """
    if chunk_tokens is None:
        elements = _CHUNK_ELEMENTS.get(head_VC.device.type, _CHUNK_ELEMENTS["cuda"])
        chunk_tokens = max(1, elements // head_VC.shape[0])
    if not torch.is_grad_enabled():  # else the gradients would be computed, and thrown away
        hidden_NC, head_VC = hidden_NC.detach(), head_VC.detach()
    return TokenLosses(*_TokenLoss.apply(hidden_NC, head_VC, targets_N, loss, context or Context(), chunk_tokens))


class LossHead(torch.nn.Module):
    """Takes the place of a model's output head, sharing its weight.

    A module, not a bare function, because ZeRO-3 gathers a sharded weight around the forward and backward pass of
    the module that owns it; and a tuple of tensors, because ZeRO-3 looks for tensors in those.
    """

    def __init__(self, weight: torch.nn.Parameter, loss: Loss) -> None:
        super().__init__()
        self.weight = weight
        self.loss = loss

    def forward(
        self, hidden_NC: Tensor, targets_N: Tensor, context: Context | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        losses = token_loss(hidden_NC, self.weight, targets_N, self.loss, context)
        return losses.loss, losses.logprob_N, losses.coefficient_N, losses.entropy_N


class _TokenLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_NC: Tensor,
        head_VC: Tensor,
        targets_N: Tensor,
        loss: Loss,
        context: Context,
        chunk_tokens: int,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = torch.promote_types(hidden_NC.dtype, torch.float32)
        needs_hidden, needs_head = ctx.needs_input_grad[:2]
        grad_hidden_NC = torch.empty_like(hidden_NC) if needs_hidden else None
        num_chunks = -(-hidden_NC.shape[0] // chunk_tokens)
        # summed over many chunks in half precision the head's gradient would lose what each adds
        sum_dtype = wide if num_chunks > 1 else head_VC.dtype
        grad_head_VC = torch.zeros_like(head_VC, dtype=sum_dtype) if needs_head else None

        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        # a coefficient that looks at whole responses has to see all tokens before any gradient: the chunks come twice
        coefficient_N = _from_whole_responses(hidden_NC, head_VC, targets_N, loss, context, chunk_tokens)
        for start in range(0, hidden_NC.shape[0], chunk_tokens):
            chunk = slice(start, start + chunk_tokens)
            probability_TV, stats = _statistics(hidden_NC[chunk], head_VC, targets_N[chunk], loss, context, chunk)
            coefficient_T = loss.coefficient(stats) if coefficient_N is None else coefficient_N[chunk]
            assert stats.entropy_T is not None
            parts.append((stats.logprob_T, coefficient_T, stats.entropy_T))
            if not (needs_hidden or needs_head):
                continue
            # ∂loss/∂logits = c · (p - onehot); the c is multiplied in where the matrix is thin
            probability_TV[torch.arange(len(probability_TV)), targets_N[chunk]] -= 1
            grad_TV, coefficient_T1 = probability_TV.to(hidden_NC.dtype), coefficient_T[:, None]
            if grad_hidden_NC is not None:
                grad_hidden_NC[chunk] = (grad_TV @ head_VC) * coefficient_T1
            if grad_head_VC is not None:
                weighted_TC = (hidden_NC[chunk] * coefficient_T1).to(hidden_NC.dtype)
                if sum_dtype == hidden_NC.dtype:
                    grad_head_VC.addmm_(grad_TV.T, weighted_TC)
                else:
                    grad_head_VC += grad_TV.T @ weighted_TC
            del probability_TV, grad_TV

        empty = hidden_NC.new_zeros(0, dtype=wide)
        logprob_N, coefficient_N, entropy_N = (torch.cat(part) for part in zip(*(parts or [(empty,) * 3]), strict=True))
        ctx.grads = grad_hidden_NC, None if grad_head_VC is None else grad_head_VC.to(head_VC.dtype)
        ctx.mark_non_differentiable(logprob_N, coefficient_N, entropy_N)
        return -(coefficient_N * logprob_N).sum(), logprob_N, coefficient_N, entropy_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden_NC, grad_head_VC = ctx.grads
        ctx.grads = None  # used up: the memory goes as soon as autograd has passed it on
        for grad in (grad_hidden_NC, grad_head_VC):
            if grad is not None:
                grad.mul_(grad_loss)
        return grad_hidden_NC, grad_head_VC, None, None, None, None


def _statistics(
    hidden_TC: Tensor, head_VC: Tensor, targets_T: Tensor, loss: Loss, context: Context, chunk: slice
) -> tuple[Tensor, TokenStats]:
    """A chunk's probabilities, and what a coefficient may look at."""
    wide = torch.promote_types(hidden_TC.dtype, torch.float32)
    logits_TV = (hidden_TC @ head_VC.T).to(wide)
    probability_TV = logits_TV.softmax(-1)
    # the log of the softmax's denominator, from its largest term: max p is at least 1 / V, so its log is exact
    log_normaliser_T = logits_TV.amax(-1) - probability_TV.amax(-1).log()
    logprob_T = logits_TV.gather(1, targets_T[:, None]).squeeze(1) - log_normaliser_T
    entropy_T = log_normaliser_T - torch.linalg.vecdot(probability_TV, logits_TV)
    top_entropy_T = _top_entropy(logits_TV) if "top_entropy_T" in loss.needs else None
    reference_N, response_N = context.reference_logprob_N, context.response_N
    return probability_TV, TokenStats(
        logprob_T,
        entropy_T,
        top_entropy_T,
        None if reference_N is None else reference_N[chunk].to(wide),
        None if response_N is None else response_N[chunk],
        context.progress,
    )


def _top_entropy(logits_TV: Tensor) -> Tensor:
    logprob_TK = logits_TV.topk(min(TOP, logits_TV.shape[1]), dim=-1).values.log_softmax(-1)
    return -(logprob_TK.exp() * logprob_TK).sum(-1)


def _from_whole_responses(
    hidden_NC: Tensor, head_VC: Tensor, targets_N: Tensor, loss: Loss, context: Context, chunk_tokens: int
) -> Tensor | None:
    """The coefficients of a loss that looks at whole responses; None for all others."""
    if "response_T" not in loss.needs:
        return None
    empty = hidden_NC.new_zeros(0, dtype=torch.promote_types(hidden_NC.dtype, torch.float32))
    logprobs = [empty]
    for start in range(0, hidden_NC.shape[0], chunk_tokens):
        chunk = slice(start, start + chunk_tokens)
        logprobs.append(_statistics(hidden_NC[chunk], head_VC, targets_N[chunk], loss, context, chunk)[1].logprob_T)
    logprob_N = torch.cat(logprobs)
    assert context.reference_logprob_N is not None
    return loss.coefficient(
        TokenStats(
            logprob_N,
            reference_logprob_T=context.reference_logprob_N.to(logprob_N.dtype),
            response_T=context.response_N,
            progress=context.progress,
        )
    )
