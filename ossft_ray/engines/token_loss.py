"""The loss and its gradients from hidden states and output head, a chunk of tokens at a time.

A chunk's gradients are computed in the forward pass, while its probabilities exist. Until the backward pass only the
gradients of the hidden states and of the head are kept, and nothing of size tokens x vocabulary.
Letters in names: N response tokens, T those of a chunk, C hidden size, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ossft_ray.common.errors import InputError
from ossft_ray.method.coefficients import NUM_TOP_TOKENS, Loss, TokenStats

# Elements of a chunk's logits: on a CPU 32 MB in float32, and as much again for the probabilities. A small vocabulary
# fits in one chunk, where more chunks would cost time and save nothing. With 152 thousand entries a chunk has 55
# tokens, which suits a CPU's caches. On a GPU it has 1,766 tokens and takes 1.5 GiB: measured on an H100, half as many
# take 14% longer, because the sum of the head's gradient is read and written once a chunk.
CHUNK_ELEMENTS = {"cpu": 1 << 23, "cuda": 1 << 28}


@dataclass(frozen=True)
class LossInputs:
    """What some losses look at in addition to the policy itself; see `TokenStats` for the fields."""

    reference_logprob_N: Tensor | None = None
    response_N: Tensor | None = None
    progress: float = 1.0
    behavior_logprob_N: Tensor | None = None
    weight_N: Tensor | None = None  # multiplies each token's part of the loss; no coefficient looks at it
    with_ranks: bool = False  # whether `TokenLosses` has each target's rank and mass
    teacher_logprob_N: Tensor | None = None
    reference_mass_N: Tensor | None = None

    def check(self, loss: Loss) -> None:
        """Check that these inputs have what `loss` needs of them.

        Raises:
            InputError: a tensor is missing; the message names all that are.
        """
        given = ("reference_logprob", "response", "behavior_logprob", "teacher_logprob", "reference_mass")
        needed = (f"{name}_N" for name in given if f"{name}_T" in loss.needs)
        missing = [name for name in needed if getattr(self, name) is None]
        if missing:
            raise InputError(f"the loss needs {' and '.join(missing)}; pass LossInputs with them")

    def stats(
        self,
        chunk: slice,
        logprob_T: Tensor,
        entropy_T: Tensor | None = None,
        top_entropy_T: Tensor | None = None,
        concentration_T: Tensor | None = None,
    ) -> TokenStats:
        """All that a coefficient may look at, for a chunk of the tokens."""
        reference_T, behavior_T, teacher_T, mass_T = (
            None if tensor_N is None else tensor_N[chunk].to(logprob_T.dtype)
            for tensor_N in (
                self.reference_logprob_N,
                self.behavior_logprob_N,
                self.teacher_logprob_N,
                self.reference_mass_N,
            )
        )
        response_T = None if self.response_N is None else self.response_N[chunk]
        of_policy = logprob_T, entropy_T, top_entropy_T
        given = behavior_T, concentration_T, teacher_T, mass_T
        return TokenStats(*of_policy, reference_T, response_T, self.progress, *given)


class TokenLosses(NamedTuple):
    """Σ_t w_t · c_t · (-log p_t), differentiable, and its parts, detached; in float32 or wider. w is 1 if not given."""

    loss: Tensor  # a scalar with gradient -Σ w_t c_t ∇log p_t
    logprob_N: Tensor
    coefficient_N: Tensor
    entropy_N: Tensor  # of the next-token distribution, in nats
    rank_N: Tensor | None = None  # int32; 1 for the likeliest token; on request
    mass_N: Tensor | None = None  # the probability of all less likely tokens and of the target; with the rank


def token_loss(
    hidden_NC: Tensor,
    head_VC: Tensor,
    targets_N: Tensor,
    loss: Loss,
    inputs: LossInputs | None = None,
    chunk_tokens: int | None = None,
    head_gradients: list[Tensor] | None = None,
) -> TokenLosses:
    """The loss of response tokens, with c_t detached.

    Args:
        hidden_NC: the hidden states that predict the targets; response tokens only.
        head_VC: the output head's weight.
        targets_N: the token ids to predict.
        loss: a row of the loss table, see `method/coefficients.py`.
        inputs: what the loss needs in addition to the policy.
        chunk_tokens: tokens whose logits exist at once; chosen by the vocabulary's size if not given.
        head_gradients: the backward pass appends the head's gradient to this list and returns none to autograd; for a
            caller who adds it to another gradient of the same weight.

    The softmax is never taken in half precision: it is in float64 for float64 inputs and in float32 for all others.

    Raises:
        InputError: `inputs` lacks something that the loss needs, such as the log-probabilities of a reference.

    >>> hidden, head = torch.randn(5, 8, requires_grad=True), torch.randn(100, 8, requires_grad=True)
    >>> from ossft_ray.method.coefficients import make_loss
    >>> losses = token_loss(hidden, head, torch.tensor([3, 1, 4, 1, 5]), make_loss("dft"))
    >>> (losses.loss / 5).backward()  # the mean over the response's tokens
    """
    if chunk_tokens is None:
        elements = CHUNK_ELEMENTS.get(head_VC.device.type, CHUNK_ELEMENTS["cuda"])
        chunk_tokens = max(1, elements // head_VC.shape[0])
    if not torch.is_grad_enabled():  # otherwise the gradients would be computed for nothing
        hidden_NC, head_VC = hidden_NC.detach(), head_VC.detach()
    inputs = inputs or LossInputs()
    inputs.check(loss)
    chunks = _Chunks(hidden_NC, head_VC, targets_N, loss, inputs, chunk_tokens)
    return TokenLosses(*_TokenLoss.apply(hidden_NC, head_VC, chunks, head_gradients))


class LossHead(torch.nn.Module):
    """Replaces a model's output head and shares its weight.

    It is a module, not a function, because ZeRO-3 gathers a sharded weight around the forward and backward pass of the
    module that owns it. It returns a named tuple because ZeRO-3 looks for tensors in tuples.
    """

    def __init__(self, weight: torch.nn.Parameter, loss: Loss) -> None:
        super().__init__()
        self.weight = weight
        self.loss = loss
        self._head_gradients: list[Tensor] | None = None

    def hand_over_gradients(self) -> list[Tensor]:
        """From now on, add the weight's scaled gradients to the returned list instead of `weight.grad`."""
        self._head_gradients = []
        return self._head_gradients

    def forward(self, hidden_NC: Tensor, targets_N: Tensor, inputs: LossInputs | None = None) -> TokenLosses:
        return token_loss(hidden_NC, self.weight, targets_N, self.loss, inputs, head_gradients=self._head_gradients)


class _TokenLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_NC: Tensor, head_VC: Tensor, chunks: "_Chunks", head_gradients: list[Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
        ctx.head_gradients, loss = head_gradients, chunks.loss
        needs_hidden, needs_head = ctx.needs_input_grad[:2]
        grad_hidden_NC = torch.empty_like(hidden_NC) if needs_hidden else None
        # a sum over many chunks in half precision would lose what each chunk adds
        sum_dtype = chunks.wide if len(chunks.slices) > 1 else head_VC.dtype
        grad_head_VC = None
        if needs_head:
            make = torch.empty_like if chunks.slices else torch.zeros_like  # the first chunk writes, the others add
            grad_head_VC = make(head_VC, dtype=sum_dtype)
        logprob_N, coefficient_N, entropy_N = (hidden_NC.new_empty(len(hidden_NC), dtype=chunks.wide) for _ in range(3))
        rank_N = mass_N = None
        if chunks.inputs.with_ranks:
            rank_N, mass_N = torch.empty_like(logprob_N, dtype=torch.int32), torch.empty_like(logprob_N)
        needs_whole_responses = "response_T" in loss.needs
        if needs_whole_responses:  # every token is needed before the first gradient, hence an extra pass
            for chunk in chunks.slices:
                logprob_N[chunk] = chunks.statistics(chunk).logprob_T
            coefficient_N = loss.coefficient(chunks.inputs.stats(slice(None), logprob_N))

        weight_N = chunks.inputs.weight_N
        for chunk in chunks.slices:
            stats = chunks.statistics(chunk)
            assert stats.entropy_T is not None
            logprob_N[chunk], entropy_N[chunk] = stats.logprob_T, stats.entropy_T
            if rank_N is not None and mass_N is not None:
                rank_N[chunk], mass_N[chunk] = chunks.rank_and_mass(chunk, stats.logprob_T)
            if not needs_whole_responses:
                coefficient_N[chunk] = loss.coefficient(stats)
            if not (needs_hidden or needs_head):
                continue
            # ∂loss/∂logits = w c · (p - onehot); w c multiplies the thin matrices, not the one of vocabulary width
            grad_TV, factor_T1 = chunks.probability_less_onehot(chunk), coefficient_N[chunk, None]
            if weight_N is not None:
                factor_T1 = factor_T1 * weight_N[chunk, None]
            if grad_hidden_NC is not None:
                grad_hidden_NC[chunk] = (grad_TV @ head_VC) * factor_T1
            if grad_head_VC is not None:
                weighted_TC = (hidden_NC[chunk] * factor_T1).to(hidden_NC.dtype)
                _add_product(grad_head_VC, grad_TV.T, weighted_TC, is_first=chunk.start == 0)

        ctx.grads, ctx.dtype = (grad_hidden_NC, grad_head_VC), head_VC.dtype
        on_request = [each for each in (rank_N, mass_N) if each is not None]
        ctx.mark_non_differentiable(logprob_N, coefficient_N, entropy_N, *on_request)
        loss_N = -coefficient_N * logprob_N
        total = loss_N.sum() if weight_N is None else (weight_N * loss_N).sum()
        return total, logprob_N, coefficient_N, entropy_N, rank_N, mass_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden_NC, grad_head_VC = ctx.grads
        ctx.grads = None  # frees the memory as soon as autograd has passed the gradients on
        if grad_hidden_NC is not None:
            grad_hidden_NC.mul_(grad_loss)
        if grad_head_VC is not None:
            same = grad_head_VC.dtype == ctx.dtype
            grad_head_VC = torch.mul(
                grad_head_VC, grad_loss, out=grad_head_VC if same else torch.empty_like(grad_head_VC, dtype=ctx.dtype)
            )
        if ctx.head_gradients is not None and grad_head_VC is not None:
            ctx.head_gradients.append(grad_head_VC)
            grad_head_VC = None
        return grad_hidden_NC, grad_head_VC, None, None


def _add_product(sum_VC: Tensor, left_VT: Tensor, right_TC: Tensor, is_first: bool) -> None:
    """sum += left @ right, or = for the first; on a GPU without rounding the product to half precision."""
    if sum_VC.dtype == left_VT.dtype:
        torch.mm(left_VT, right_TC, out=sum_VC) if is_first else sum_VC.addmm_(left_VT, right_TC)
    elif sum_VC.is_cuda:
        options: dict[str, Any] = {"out_dtype": sum_VC.dtype, "out": sum_VC}
        torch.mm(left_VT, right_TC, **options) if is_first else torch.addmm(sum_VC, left_VT, right_TC, **options)
    else:
        product_VC = left_VT @ right_TC
        sum_VC.copy_(product_VC) if is_first else sum_VC.add_(product_VC)


class _Chunks:
    """The tokens in chunks, all of which reuse one matrix for the logits and one for their gradient."""

    def __init__(
        self, hidden_NC: Tensor, head_VC: Tensor, targets_N: Tensor, loss: Loss, inputs: LossInputs, chunk_tokens: int
    ) -> None:
        self.hidden_NC, self.head_VC, self.targets_N = hidden_NC, head_VC, targets_N
        self.loss, self.inputs = loss, inputs
        self.wide = torch.promote_types(hidden_NC.dtype, torch.float32)
        num_tokens = len(targets_N)
        self.slices = [slice(start, start + chunk_tokens) for start in range(0, num_tokens, chunk_tokens)]
        # a CPU computes a float32 product only of float32 matrices
        self._wide_head_VC = head_VC if hidden_NC.is_cuda else head_VC.to(self.wide)
        shape = (min(chunk_tokens, num_tokens), head_VC.shape[0])
        self._uses_kernel = hidden_NC.is_cuda and self.wide == torch.float32
        self._logits_TV = hidden_NC.new_empty(shape, dtype=self.wide)
        # p, and later p - onehot; the kernel writes only the latter, in the inputs' type, and only for a gradient
        self._probability_TV: Tensor | None = None
        if not self._uses_kernel or hidden_NC.requires_grad or head_VC.requires_grad:
            self._probability_TV = hidden_NC.new_empty(shape, dtype=hidden_NC.dtype if self._uses_kernel else self.wide)

    def statistics(self, chunk: slice) -> TokenStats:
        """What a coefficient may look at; leaves the chunk's probabilities in their matrix."""
        targets_T = self.targets_N[chunk]
        logits_TV = self._logits_TV[: len(targets_T)]
        probability_TV = None if self._probability_TV is None else self._probability_TV[: len(targets_T)]
        self._multiply(self.hidden_NC[chunk], logits_TV)
        if self._uses_kernel:
            from ossft_ray.engines.softmax_kernel import softmax_statistics  # Triton is not on every machine

            logprob_T, entropy_T, concentration_T = softmax_statistics(logits_TV, targets_T, probability_TV)
        else:
            assert probability_TV is not None
            torch.softmax(logits_TV, -1, out=probability_TV)
            # the log of the softmax's denominator, from its largest term: max p is at least 1 / V, so its log is exact
            log_normaliser_T = logits_TV.amax(-1) - probability_TV.amax(-1).log()
            logprob_T = logits_TV.gather(1, targets_T[:, None]).squeeze(1) - log_normaliser_T
            # Σ_v p_v · logit_v as a batch of dot products, which needs no third matrix of this size
            mean_logit_T = torch.bmm(probability_TV[:, None], logits_TV[:, :, None]).flatten()
            if mean_logit_T.isnan().any():  # 0 · -inf, where a logit is -inf; its share of the sum is 0
                finite_TV = logits_TV.clamp_min_(torch.finfo(self.wide).min)
                mean_logit_T = torch.bmm(probability_TV[:, None], finite_TV[:, :, None]).flatten()
            entropy_T = log_normaliser_T - mean_logit_T
            concentration_T = None
            if "concentration_T" in self.loss.needs:
                concentration_T = torch.bmm(probability_TV[:, None], probability_TV[:, :, None]).flatten()
        top_entropy_T = _top_entropy(logits_TV) if "top_entropy_T" in self.loss.needs else None
        return self.inputs.stats(chunk, logprob_T, entropy_T, top_entropy_T, concentration_T)

    def _multiply(self, hidden_TC: Tensor, logits_TV: Tensor) -> None:
        """Write the logits unrounded: half precision would move them by up to 0.1 nats."""
        if self._wide_head_VC.dtype == self.wide:
            torch.mm(hidden_TC.to(self.wide), self._wide_head_VC.T, out=logits_TV)
        else:
            torch.mm(hidden_TC, self.head_VC.T, out_dtype=self.wide, out=logits_TV)

    def rank_and_mass(self, chunk: slice, logprob_T: Tensor) -> tuple[Tensor, Tensor]:
        """1 + the number of likelier tokens; and the probability of all less likely ones and of the target.

        For the chunk of the last call of `statistics`, which gave `logprob_T`. Overwrites the chunk's logits.
        """
        targets_T = self.targets_N[chunk]
        logits_TV = self._logits_TV[: len(targets_T)]
        target_T1 = logits_TV.gather(1, targets_T[:, None])
        rank_T = 1 + (logits_TV > target_T1).sum(-1, dtype=torch.int32)
        log_normaliser_T1 = target_T1 - logprob_T[:, None]
        logits_TV.masked_fill_(logits_TV >= target_T1, -torch.inf).sub_(log_normaliser_T1).exp_()
        return rank_T, (logits_TV.sum(-1) + logprob_T.exp()).clamp_max(1)

    def probability_less_onehot(self, chunk: slice) -> Tensor:
        """p - onehot, in the inputs' dtype; of the chunk for which `statistics` was called last."""
        assert self._probability_TV is not None
        targets_T = self.targets_N[chunk]
        probability_TV = self._probability_TV[: len(targets_T)]
        if not self._uses_kernel:
            probability_TV[torch.arange(len(targets_T), device=targets_T.device), targets_T] -= 1
        return probability_TV.to(self.hidden_NC.dtype)


def _top_entropy(logits_TV: Tensor) -> Tensor:
    top_TK = logits_TV.topk(min(NUM_TOP_TOKENS, logits_TV.shape[1]), dim=-1).values
    return torch.special.entr(top_TK.softmax(-1)).sum(-1)  # entr(0) is 0
