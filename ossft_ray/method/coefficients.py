"""The loss table: every loss of this family is one coefficient c_t in the gradient -Σ_t c_t ∇log p(y_t).

A coefficient is a function of what is known of each response token, evaluated without gradient: the loss
Σ_t c_t · (-log p_t) with c_t detached has exactly that gradient. Adding a published loss is adding a line here
(and, if it looks at more than log p, a field to `TokenStats`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenStats:
    """What a coefficient may look at, one value a response token; detached, in float32 or wider."""

    logprob_T: Tensor  # log p_θ(y_t | x, y_<t) in nats, under the policy as it is at this step


Coefficient = Callable[[TokenStats], Tensor]  # c_T, same shape and dtype as logprob_T


def sft(tokens: TokenStats) -> Tensor:
    """Plain supervised fine-tuning: c = 1."""
    return torch.ones_like(tokens.logprob_T)


def dft(tokens: TokenStats) -> Tensor:
    """Dynamic Fine-Tuning: c = p (arXiv 2508.05629, Equation 9; the loss of "Mind the Gap", arXiv 2509.15157)."""
    return tokens.logprob_T.exp()


COEFFICIENTS: dict[str, Coefficient] = {"sft": sft, "dft": dft}
