"""The softmax of a chunk of logits on a GPU, in one Triton kernel: two reads of the logits and one write.

PyTorch would read and write them eight times. Letters in names as in `token_loss.py`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK, _NUM_WARPS = 1024, 4  # entries of a row at a time; the fastest of six settings on an H100


def softmax_statistics(
    logits_TV: Tensor, targets_T: Tensor, gradient_TV: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """log p of the targets, the distribution's entropy in nats, and its concentration Σ p², all float32 of T.

    Fills `gradient_TV`, of any floating type, with p - onehot, the gradient of -log p by the logits.
    """
    num_tokens, vocabulary = logits_TV.shape
    logprob_T, entropy_T, concentration_T = (
        torch.empty(num_tokens, dtype=torch.float32, device=logits_TV.device) for _ in range(3)
    )
    if num_tokens:
        _softmax[(num_tokens,)](
            logits_TV,
            targets_T,
            logprob_T,
            entropy_T,
            concentration_T,
            logits_TV if gradient_TV is None else gradient_TV,
            vocabulary,
            fills_gradient=gradient_TV is not None,
            block=_BLOCK,
            num_warps=_NUM_WARPS,
        )
    return logprob_T, entropy_T, concentration_T


@triton.jit
def _softmax(  # type: ignore[no-untyped-def]
    logits,
    targets,
    logprobs,
    entropies,
    concentrations,
    gradients,
    vocabulary,
    fills_gradient: tl.constexpr,
    block: tl.constexpr,
):
    """One program for each row. Each lane keeps its own maximum and three sums, which are merged at the end."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * vocabulary
    lanes = tl.arange(0, block)
    largest = tl.full((block,), float("-inf"), tl.float32)
    total = tl.zeros((block,), tl.float32)  # Σ exp(z - largest)
    product = tl.zeros((block,), tl.float32)  # Σ exp(z - largest) · z
    squares = tl.zeros((block,), tl.float32)  # Σ exp(z - largest)²
    for start in range(0, vocabulary, block):
        z = tl.load(logits + start + lanes, mask=start + lanes < vocabulary, other=float("-inf"))
        larger = tl.maximum(largest, z)
        safe = tl.where(larger == float("-inf"), 0.0, larger)  # -inf minus itself is NaN
        shrink, weight = tl.exp(largest - safe), tl.exp(z - safe)
        total = total * shrink + weight
        product = product * shrink + tl.where(weight > 0, weight * z, 0.0)
        squares = squares * shrink * shrink + weight * weight
        largest = larger
    peak = tl.max(largest, 0)
    share = tl.exp(largest - peak)
    normaliser = tl.sum(total * share, 0)
    log_normaliser = peak + tl.log(normaliser)
    target = tl.load(targets + row)
    tl.store(logprobs + row, tl.load(logits + target) - log_normaliser)
    tl.store(entropies + row, log_normaliser - tl.sum(product * share, 0) / normaliser)
    tl.store(concentrations + row, tl.sum(squares * share * share, 0) / (normaliser * normaliser))
    if fills_gradient:
        gradients += row * vocabulary
        for start in range(0, vocabulary, block):
            columns = start + lanes
            z = tl.load(logits + columns, mask=columns < vocabulary, other=float("-inf"))
            gradient = tl.exp(z - log_normaliser) - (columns == target).to(tl.float32)
            tl.store(gradients + columns, gradient.to(gradients.dtype.element_ty), mask=columns < vocabulary)
