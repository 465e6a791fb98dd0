"""The loss table: every loss of this family is one coefficient c_t in the gradient -Σ_t c_t ∇log p(y_t).

A coefficient is a function of `TokenStats`, evaluated without gradient: the loss Σ_t c_t · (-log p_t) with c_t detached
has exactly that gradient. To add a published loss, add a function and a line of the table.

Letters in names: T tokens, R responses. In formulas: p = p_θ(y_t), H the entropy of p_θ(·) in nats, q the probability
of y_t under the reference policy (the policy before training, or at its last refresh), r = p / q, and b the probability
of y_t under the prompt and temperature that it was sampled with.
q_T is the probability of y_t under a teacher.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ossft_ray.common.errors import InputError
from ossft_ray.config import RENAMED_LOSSES

NUM_TOP_TOKENS = 20  # that enter `top_entropy_T`
_MAX_LOG_RATIO = 20.0  # of exp(log p - log q): every bound below cuts far earlier, and float32 overflows near 88


@dataclass(frozen=True)
class TokenStats:
    """What a coefficient may look at, one value per response token; detached, in float32 or wider.

    Only `logprob_T` is always given; the other tensors are given where the loss `needs` them.
    """

    logprob_T: Tensor  # log p_θ(y_t | x, y_<t) in nats, under the policy at this step
    entropy_T: Tensor | None = None  # of the whole next-token distribution, in nats
    top_entropy_T: Tensor | None = None  # of the 20 most likely tokens, renormalised, in nats
    reference_logprob_T: Tensor | None = None  # log q
    response_T: Tensor | None = None  # the index of the token's response: 0, 1, ...; no response is split
    progress: float = 1.0  # the share of optimiser steps done so far, 0..1
    behavior_logprob_T: Tensor | None = None  # log b, 0 where an expert wrote the token
    concentration_T: Tensor | None = None  # Σ_v p_θ(v)² over the vocabulary
    teacher_logprob_T: Tensor | None = None  # log q_T
    reference_mass_T: Tensor | None = None  # the reference policy's probability of y_t and all less likely tokens


Coefficient = Callable[[TokenStats], Tensor]  # c_T, same shape and dtype as logprob_T


@dataclass(frozen=True)
class Loss:
    """A loss with its hyper-parameters filled in, and the fields of `TokenStats` that it needs."""

    coefficient: Coefficient
    needs: frozenset[str] = frozenset()


def sft(tokens: TokenStats) -> Tensor:
    """Plain supervised fine-tuning: c = 1."""
    return torch.ones_like(tokens.logprob_T)


def dft(tokens: TokenStats) -> Tensor:
    """Dynamic Fine-Tuning: c = p (arXiv 2508.05629, Equation 9; the loss of "Mind the Gap", arXiv 2509.15157)."""
    return tokens.logprob_T.exp()


def iw_sft(tokens: TokenStats, temperature: float = 1.0, max_weight: float = 16.0) -> Tensor:
    """Importance-weighted SFT: c = min(exp(τ · mean_t(log p - log q)), max_weight), one value for the whole response.

    τ is the temperature. arXiv 2507.12856, as in its authors' code (`IwSFTLoss`, summed over time).
    """
    assert tokens.response_T is not None
    response_T, log_ratio_T = tokens.response_T, _log_ratio(tokens)
    num_responses = int(response_T.max()) + 1 if len(response_T) else 0
    sums_R = log_ratio_T.new_zeros(num_responses).index_add_(0, response_T, log_ratio_T)
    lengths_R = log_ratio_T.new_zeros(num_responses).index_add_(0, response_T, torch.ones_like(log_ratio_T))
    weight_R = _exp(temperature * sums_R / lengths_R.clamp_min(1)).clamp_max(max_weight)
    return weight_R[response_T]


def psft(tokens: TokenStats, clip: float = 0.28) -> Tensor:
    """Proximal SFT: c = r where r ≤ 1 + clip, else 0 (arXiv 2508.17784: PPO's surrogate, all advantages 1).

    q is the policy at its last refresh: with a fixed q, a token past the bound would never be trained on again.
    """
    ratio_T = _exp(_log_ratio(tokens))
    return ratio_T.where(ratio_T <= 1 + clip, 0.0)


def dft_k3(tokens: TokenStats, weight: float = 0.05, max_ratio: float = 10.0) -> Tensor:
    """DFT with the k3 estimator of KL(p‖q) on the response's tokens: c = p + λ (q/p - 1), with q/p bounded.

    k3 as in Schulman's "Approximating KL divergence". This is not ASFT (arXiv 2509.23753), whose KL(q‖p) over the whole
    vocabulary is not a sum of coefficients. The gradient of k3 is that of a KL only on average over tokens drawn from
    p. Any other token with q below λ/4 freezes where c = 0, near its q. ASFT learns it.
    """
    inverse_ratio_T = _exp(-_log_ratio(tokens)).clamp_max(max_ratio)
    return tokens.logprob_T.exp() + weight * (inverse_ratio_T - 1)


def trsft(tokens: TokenStats, alpha: float = 0.1) -> Tensor:
    """Trust-region SFT: c = p / max(p, α), which is 1 except for unlikely tokens (arXiv 2512.17636)."""
    probability_T = tokens.logprob_T.exp()
    return probability_T / probability_T.clamp_min(alpha)


def idft(tokens: TokenStats, hold: float = 0.0, ramp: float = 0.0, **gamma: float) -> Tensor:
    """In-distribution fine-tuning: c = p^γ, the coefficient of -p^γ log p with p^γ detached.

    arXiv 2602.12222, as in its authors' code since March 2026, whose script sets warm-up and transition to 0.
    """
    return (_gamma(tokens, hold, ramp, **gamma) * tokens.logprob_T).exp()


def idft_v1(tokens: TokenStats, hold: float = 0.2, ramp: float = 0.1, **gamma: float) -> Tensor:
    """IDFT as its authors first published it: c = p^γ (1 + γ log p), the coefficient of -p^γ log p with γ detached.

    arXiv 2602.12222, the code's first commit. Negative for p < e^(-1/γ): such tokens are pushed away.
    """
    gamma_T = _gamma(tokens, hold, ramp, **gamma)
    return (gamma_T * tokens.logprob_T).exp() * (1 + gamma_T * tokens.logprob_T)


def eaft(tokens: TokenStats, alpha: float = 1.0) -> Tensor:
    """Entropy-adaptive fine-tuning: c = H̃^α, H̃ the entropy of the 20 most likely tokens over ln 20.

    arXiv 2601.02151; LLaMA-Factory divides by 3.0 instead.
    """
    assert tokens.top_entropy_T is not None
    largest = torch.log(torch.tensor(float(NUM_TOP_TOKENS)).to(tokens.logprob_T))
    return (tokens.top_entropy_T / largest).clamp_min(0).pow(alpha)


def power(tokens: TokenStats, k: float = 10.0) -> Tensor:
    """c = p^k, the gradient of (1 - p^k) / k; k = 1 is dft (arXiv 2510.00526)."""
    return (k * tokens.logprob_T).exp()


def importance_sampling(tokens: TokenStats, low: float = 0.0, high: float = 2.0) -> Tensor:
    """Importance sampling: c = clip(p / b, low, high), the ratio to the distribution that the token was drawn from.

    Textbook, with a truncated weight (Ionides 2008). An expert's token was not sampled: b is 1 there, so c is DFT's p.
    """
    assert tokens.behavior_logprob_T is not None
    return _exp(tokens.logprob_T - tokens.behavior_logprob_T).clamp(low, high)


def prift_prob(tokens: TokenStats) -> Tensor:
    """Prior-support guided fine-tuning by probability: c = q, fixed during training.

    arXiv 2606.09396, as in its authors' code (`prift_prob_weights`).
    """
    assert tokens.reference_logprob_T is not None
    return tokens.reference_logprob_T.exp()


def prift_mass(tokens: TokenStats, threshold: float = 0.5) -> Tensor:
    """Prior-support guided fine-tuning by mass: c = 1 where u ≥ τ, else 0; fixed during training.

    u is the reference policy's probability of y_t and all tokens less likely than it, so 1 for the likeliest;
    τ is the threshold. arXiv 2606.09396, as in its authors' code (`prift_mass_weights`).
    """
    assert tokens.reference_mass_T is not None
    return (tokens.reference_mass_T >= threshold).to(tokens.logprob_T.dtype)


def infosft(tokens: TokenStats, zero_at: float = 0.93) -> Tensor:
    """InfoSFT: c = p · max(0, 1 - logit(p) / logit(P)), largest for tokens of middling p and 0 from P on.

    P is `zero_at`, and logit(p) = log(p / (1 - p)). arXiv 2605.14967, as in its authors' code
    (`infosft_normalized_loss`, with the P of its training script).
    """
    logprob_T = tokens.logprob_T
    logit_T = logprob_T - (-torch.expm1(logprob_T)).log()  # ∞ where p is 1
    return logprob_T.exp() * (1 - logit_T / math.log(zero_at / (1 - zero_at))).clamp_min(0)


def deft(tokens: TokenStats) -> Tensor:
    """Dynamic entropy fine-tuning: c = p^α, the gradient of (1 - p^α) / α with α = Σ_v p_v² detached.

    It is near SFT where the distribution is flat and near DFT where it is sharp. arXiv 2602.11424; its authors' code
    divides by α + 10⁻⁶.
    """
    assert tokens.concentration_T is not None
    return (tokens.concentration_T * tokens.logprob_T).exp()


def opd(tokens: TokenStats, clip: float = 5.0, p: str = "current") -> Tensor:
    """Distillation of a teacher on the policy's own tokens: c = log q_T - log p within ±clip, negative for p > q_T.

    Over tokens drawn from p, -Σ c ∇log p has the mean ∇KL(p‖q_T), the reverse KL divergence. p is the policy's at
    this step or, with `scored`, before training: then c is constant for each token, and nothing ends the push once the
    policy has reached the teacher.
    """
    assert tokens.teacher_logprob_T is not None
    logprob_T = tokens.logprob_T if p == "current" else tokens.reference_logprob_T
    assert logprob_T is not None
    return (tokens.teacher_logprob_T - logprob_T).clamp(-clip, clip)


_TABLE: dict[str, tuple[Callable[..., Tensor], frozenset[str]]] = {
    "sft": (sft, frozenset()),
    "dft": (dft, frozenset()),
    "iw_sft": (iw_sft, frozenset({"reference_logprob_T", "response_T"})),
    "psft": (psft, frozenset({"reference_logprob_T"})),
    "dft_k3": (dft_k3, frozenset({"reference_logprob_T"})),
    "trsft": (trsft, frozenset()),
    "idft": (idft, frozenset({"entropy_T"})),
    "idft_v1": (idft_v1, frozenset({"entropy_T"})),
    "eaft": (eaft, frozenset({"top_entropy_T"})),
    "power": (power, frozenset()),
    "prift_prob": (prift_prob, frozenset({"reference_logprob_T"})),
    "prift_mass": (prift_mass, frozenset({"reference_mass_T"})),
    "infosft": (infosft, frozenset()),
    "deft": (deft, frozenset({"concentration_T"})),
    "is": (importance_sampling, frozenset({"behavior_logprob_T"})),
    "opd": (opd, frozenset({"teacher_logprob_T", "reference_logprob_T"})),
}
LOSSES = tuple(_TABLE)


def make_loss(name: str, **options: Any) -> Loss:
    """A loss of the table; `options` are its function's keyword arguments, by default the source's values.

    Raises:
        InputError: there is no loss of this name, or it was renamed.

    >>> make_loss("trsft", alpha=0.2).coefficient(TokenStats(torch.tensor([0.1, 0.5]).log()))
    tensor([0.5000, 1.0000])
    """
    if name in RENAMED_LOSSES:
        raise InputError(f"no loss '{name}': {RENAMED_LOSSES[name]}")
    if name not in _TABLE:
        raise InputError(f"no loss '{name}'; losses: {', '.join(LOSSES)}")
    coefficient, needs = _TABLE[name]
    return Loss(functools.partial(coefficient, **options), needs)


def _log_ratio(tokens: TokenStats) -> Tensor:
    assert tokens.reference_logprob_T is not None
    return tokens.logprob_T - tokens.reference_logprob_T


def _exp(log_ratio: Tensor) -> Tensor:
    return log_ratio.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO).exp()


def _gamma(
    tokens: TokenStats,
    hold: float,
    ramp: float,
    beta: float = 1.0,
    min_gamma: float = 0.1,
    max_gamma: float = 2.0,
) -> Tensor:
    """IDFT's γ = clamp(exp(-(log p + H)/β), 0.1, 2): large where a token is less likely than its distribution suggests.

    γ is 1 for the share `hold` of the run, and moves to the formula's value over the next `ramp`.
    """
    assert tokens.entropy_T is not None
    exponent_T = -(tokens.logprob_T + tokens.entropy_T) / beta
    gamma_T = _exp(exponent_T).clamp(min_gamma, max_gamma)
    blend = min(1.0, max(0.0, (tokens.progress - hold) / ramp)) if ramp else float(tokens.progress >= hold)
    return 1 + blend * (gamma_T - 1)
