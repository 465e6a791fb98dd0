"""Each loss has the gradient of its source's formula, by automatic differentiation in float64."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from ossft_ray.common.errors import InputError
from ossft_ray.config import Train, resolve
from ossft_ray.method.coefficients import LOSSES, TokenStats, make_loss

RESPONSES = torch.tensor([0] * 7 + [1] * 1 + [2] * 12)


@dataclass(frozen=True)
class Given:
    """The quantities of a source's formula; p and everything computed from logits may be differentiated."""

    logits_TV: Tensor
    logp_T: Tensor
    logq_T: Tensor
    progress: float
    logb_T: Tensor  # 0 for the tokens of an expert
    log_teacher_T: Tensor
    mass_T: Tensor  # under a reference

    @property
    def p(self) -> Tensor:
        return self.logp_T.exp()

    @property
    def ratio(self) -> Tensor:
        return (self.logp_T - self.logq_T).exp()

    @property
    def entropy(self) -> Tensor:
        return torch.distributions.Categorical(logits=self.logits_TV).entropy()


def iw_sft(g: Given, temperature: float = 1.0) -> Tensor:
    """`IwSFTLoss` of the authors' repository, sum_over_time, a response at a time."""
    total = torch.zeros((), dtype=torch.float64)
    for response in range(3):
        logp, logq = g.logp_T[response == RESPONSES], g.logq_T[response == RESPONSES]
        weight = torch.exp(temperature * (logp - logq).sum() / len(logp)).clamp(0.0, 16.0).detach()
        total = total - (weight * logp).sum()
    return total


def importance_sampling(g: Given) -> Tensor:
    """The surrogate E_b[p / b], with its ratio truncated at 2 and linear in log p beyond; an expert's b is 1."""
    ratio = (g.logp_T - g.logb_T).exp()
    return -torch.where(ratio <= 2.0, ratio, 2.0 * g.logp_T).sum()


def opd(g: Given) -> Tensor:
    """Half the square of the per-token estimate log p - log q_T of KL(p‖q_T), linear where that is more than 5."""
    estimate = g.logp_T - g.log_teacher_T
    return torch.where(estimate.abs() <= 5, estimate.square() / 2, 5 * estimate.abs()).sum()


def gamma(g: Given) -> Tensor:
    return (-(g.logp_T + g.entropy)).exp().clamp(0.1, 2.0).detach()


def first_gamma(g: Given) -> Tensor:
    """The first commit's, with its warm-up of 20% and its transition of 10%."""
    share = min(1.0, max(0.0, (g.progress - 0.2) / 0.1))
    return (1 - share) + share * gamma(g)


def top_20_entropy(g: Given) -> Tensor:
    top = g.logits_TV.sort(-1, descending=True).values[:, :20].softmax(-1)
    return torch.special.entr(top).sum(-1)


def concentration(g: Given) -> Tensor:
    return g.logits_TV.softmax(-1).square().sum(-1)


def reference_mass(reference_TV: Tensor, targets_T: Tensor) -> Tensor:
    """`reference_mass` of the authors' repository (arXiv 2606.09396)."""
    probability_TV = reference_TV.softmax(-1)
    target_T1 = probability_TV.gather(1, targets_T[:, None])
    lower_T = torch.where(probability_TV < target_T1, probability_TV, 0.0).sum(-1)
    return lower_T + target_T1[:, 0]


def infosft(g: Given) -> Tensor:
    """`infosft_normalized_loss` of the authors' repository (arXiv 2605.14967), before its division by the tokens."""
    p = g.p.detach()
    margin = torch.relu(1 - (p / (1 - p)).log() / math.log(0.93 / 0.07))
    return -(p * margin * g.logp_T).sum()


def k3(g: Given) -> Tensor:
    """Schulman's estimator of KL(p‖q), linear where q/p exceeds 10, so that its gradient has the bounded ratio."""
    inverse = (g.logq_T - g.logp_T).exp()
    bounded = torch.where(inverse <= 10.0, inverse, 10.0 * (g.logq_T - g.logp_T))
    return bounded + g.logp_T - g.logq_T


# each loss as its source writes it, summed over tokens, for automatic differentiation
SOURCES: dict[str, Callable[[Given], Tensor]] = {
    "sft": lambda g: -g.logp_T.sum(),
    "dft": lambda g: -(g.p.detach() * g.logp_T).sum(),  # arXiv 2508.05629, Equation 9
    "iw_sft": iw_sft,
    # arXiv 2508.17784: PPO's clipped surrogate with all advantages 1
    "psft": lambda g: -torch.minimum(g.ratio, g.ratio.clamp(1 - 0.2, 1 + 0.28)).sum(),
    "dft_k3": lambda g: (-g.p.detach() * g.logp_T + 0.05 * k3(g)).sum(),
    # arXiv 2512.17636: log-likelihood where p is above α, linear in p below
    "trsft": lambda g: -torch.where(g.p > 0.1, g.logp_T, g.p / 0.1 - 1 + math.log(0.1)).sum(),
    "idft": lambda g: -((g.p ** gamma(g)).detach() * g.logp_T).sum(),  # arXiv 2602.12222, code since March 2026
    "idft_v1": lambda g: -(g.p ** first_gamma(g) * g.logp_T).sum(),  # its first commit
    "eaft": lambda g: -((top_20_entropy(g) / math.log(20)).detach() * g.logp_T).sum(),  # arXiv 2601.02151
    "power": lambda g: ((1 - g.p**10) / 10).sum(),  # arXiv 2510.00526
    "prift_prob": lambda g: -(g.logq_T.exp() * g.logp_T).sum(),  # arXiv 2606.09396
    "prift_mass": lambda g: -((g.mass_T >= 0.5).double() * g.logp_T).sum(),  # likewise
    "infosft": infosft,
    # arXiv 2602.11424: minus a q-logarithm of p whose order is detached
    "deft": lambda g: -((g.p ** concentration(g).detach() - 1) / concentration(g).detach()).sum(),
    "is": importance_sampling,
    "opd": opd,
}


def given(seed: int, progress: float) -> Given:
    torch.manual_seed(seed)
    logits_TV = (3 * torch.randn(20, 31, dtype=torch.float64)).requires_grad_()
    targets_T = torch.randint(31, (20,))
    targets_T[:10] = logits_TV[:10].argmax(-1)  # likely tokens too
    logp_T = logits_TV.log_softmax(-1).gather(1, targets_T[:, None])[:, 0]
    logq_T, logb_T = (logp_T.detach() + 1.5 * torch.randn(20, dtype=torch.float64) for _ in range(2))
    log_teacher_T = logp_T.detach() + 4 * torch.randn(20, dtype=torch.float64)
    mass_T = reference_mass(logits_TV.detach() + torch.randn(20, 31, dtype=torch.float64), targets_T)
    return Given(logits_TV, logp_T, logq_T, progress, logb_T.where(RESPONSES != 2, 0.0), log_teacher_T, mass_T)


def stats(g: Given) -> TokenStats:
    of_policy = (tensor.detach() for tensor in (g.logp_T, g.entropy, top_20_entropy(g)))
    before = g.logq_T, RESPONSES, g.progress, g.logb_T
    return TokenStats(*of_policy, *before, concentration(g).detach(), g.log_teacher_T, g.mass_T)


def test_every_loss_of_the_config_has_a_coefficient_and_a_source() -> None:
    names = set(Train.model_fields["loss"].annotation.__args__)
    assert names == set(LOSSES) == set(SOURCES)


@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("name", LOSSES)
def test_coefficient_has_the_gradient_of_its_source(name: str, progress: float) -> None:
    for seed in range(3):
        source = given(seed, progress)
        coefficient_T = make_loss(name).coefficient(stats(source))
        assert coefficient_T.dtype == torch.float64 and not coefficient_T.requires_grad
        ours_TV = torch.autograd.grad(-(coefficient_T * source.logp_T).sum(), source.logits_TV, retain_graph=True)
        theirs_TV = torch.autograd.grad(SOURCES[name](source), source.logits_TV)
        torch.testing.assert_close(ours_TV, theirs_TV)


@pytest.mark.parametrize("name", LOSSES)
def test_the_config_has_the_sources_hyper_parameters(name: str) -> None:
    """A run without settings for its loss gets the defaults of the functions."""
    options = {key: value for key, value in Train(loss=name).loss_options.items() if key != "refresh_every"}
    source = given(5, 0.27)
    torch.testing.assert_close(
        make_loss(name, **options).coefficient(stats(source)), make_loss(name).coefficient(stats(source))
    )


@pytest.mark.parametrize("name", LOSSES)
def test_no_tokens_give_no_coefficients(name: str) -> None:
    none = torch.zeros(0)
    stats = TokenStats(none, none, none, none, none.long(), 0.5, none, none, none, none)
    assert make_loss(name).coefficient(stats).shape == (0,)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("logprob, reference", [(-200.0, 0.0), (0.0, -200.0), (-1e4, -1e4), (0.0, 0.0)])
def test_coefficients_stay_finite_at_the_extremes(name: str, logprob: float, reference: float) -> None:
    one = torch.ones(1)
    before = reference * one
    of_policy = logprob * one, 0 * one, -1e-9 * one
    tokens = TokenStats(*of_policy, before, one.long(), 1.0, before, one, before, one)
    assert make_loss(name).coefficient(tokens).isfinite().all()


@pytest.mark.parametrize(
    "name, options, logprob, reference, expected",
    [
        ("sft", {}, -5.0, None, 1.0),
        ("dft", {}, 0.0, None, 1.0),
        ("dft", {}, -1.0, None, math.exp(-1)),
        ("dft", {}, -200.0, None, 0.0),
        ("iw_sft", {}, -1.0, -2.0, math.e),
        ("iw_sft", {}, -1.0, -9.0, 16.0),
        ("iw_sft", {"temperature": 0.5, "max_weight": 2.0}, -1.0, -2.0, math.exp(0.5)),
        ("psft", {}, math.log(0.5), math.log(0.4), 1.25),
        ("psft", {}, math.log(0.5), math.log(0.3), 0.0),
        ("psft", {}, math.log(0.1), math.log(0.9), 1 / 9),
        ("psft", {"clip": 1.0}, math.log(0.5), math.log(0.3), 5 / 3),
        ("dft_k3", {}, math.log(0.2), math.log(0.4), 0.2 + 0.05),
        ("dft_k3", {"weight": 0.1, "max_ratio": 3.0}, math.log(0.01), math.log(0.9), 0.01 + 0.2),
        ("trsft", {}, math.log(0.05), None, 0.5),
        ("trsft", {}, math.log(0.3), None, 1.0),
        ("power", {}, math.log(0.5), None, 0.5**10),
        ("power", {"k": 1.0}, math.log(0.5), None, 0.5),
        ("prift_prob", {}, math.log(0.5), math.log(0.3), 0.3),
        ("prift_mass", {}, -3.0, 0.5, 1.0),
        ("prift_mass", {}, 0.0, 0.49, 0.0),
        ("prift_mass", {"threshold": 0.9}, 0.0, 0.7, 0.0),
        ("infosft", {}, math.log(0.5), None, 0.5),
        ("infosft", {}, math.log(0.93), None, 0.0),
        ("infosft", {}, 0.0, None, 0.0),
        ("infosft", {"zero_at": 0.75}, math.log(0.25), None, 0.5),
        ("is", {}, math.log(0.5), math.log(0.4), 1.25),
        ("is", {}, math.log(0.5), math.log(0.1), 2.0),
        ("is", {"low": 0.5}, math.log(0.1), math.log(0.9), 0.5),
        ("is", {"high": 9.0}, math.log(0.8), math.log(0.1), 8.0),
        ("is", {}, math.log(0.3), 0.0, 0.3),  # an expert's: DFT's
        ("opd", {}, math.log(0.2), math.log(0.8), math.log(4)),  # likelier under the teacher: pulled up
        ("opd", {}, math.log(0.8), math.log(0.2), -math.log(4)),
        ("opd", {"clip": 0.5}, math.log(0.8), math.log(0.2), -0.5),
        ("opd", {"p": "scored"}, math.log(0.8), math.log(0.2), 0.0),  # which is also log p of the scores here
    ],
)
def test_values(name: str, options: dict[str, float], logprob: float, reference: float | None, expected: float) -> None:
    one = torch.ones(1, dtype=torch.float64)
    before = None if reference is None else reference * one
    tokens = TokenStats(
        logprob * one,
        reference_logprob_T=before,
        response_T=torch.tensor([0]),
        behavior_logprob_T=before,
        teacher_logprob_T=before,
        reference_mass_T=before,
    )
    assert make_loss(name, **options).coefficient(tokens).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    "progress, expected", [(0.0, 0.5), (0.2, 0.5), (0.25, 0.5 ** (1 + 0.5 * (1 / 0.5 - 1))), (0.3, 0.25), (1.0, 0.25)]
)
def test_idft_may_begin_as_dft_and_move_to_its_own_weight(progress: float, expected: float) -> None:
    """At p = 0.5 and H = 0, γ is 2."""
    one = torch.ones(1, dtype=torch.float64)
    tokens = TokenStats(math.log(0.5) * one, entropy_T=0 * one, progress=progress)
    assert make_loss("idft", hold=0.2, ramp=0.1).coefficient(tokens).item() == pytest.approx(expected)
    assert make_loss("idft").coefficient(tokens).item() == pytest.approx(0.25)


def asft(logits_V: Tensor, reference_V: Tensor, weight: float = 0.05) -> Tensor:
    """ASFT's loss of token 0 (arXiv 2509.23753), as in its authors' `train.py`: DFT and a KL of all tokens."""
    logprob_V = logits_V.log_softmax(-1)
    kl = torch.nn.functional.kl_div(logprob_V, reference_V.softmax(-1), reduction="none").sum(-1)
    return -logprob_V[0].exp().detach() * logprob_V[0] + weight * kl


def of_table(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """A loss of token 0 by its coefficient."""

    def loss(logits_V: Tensor, reference_V: Tensor) -> Tensor:
        logprob_T, logq_T = (tensor.log_softmax(-1)[:1] for tensor in (logits_V, reference_V))
        coefficient_T = make_loss(name).coefficient(TokenStats(logprob_T.detach(), reference_logprob_T=logq_T))
        return -(coefficient_T * logprob_T).sum()

    return loss


@pytest.mark.parametrize(
    "loss, before, after",
    [
        (asft, 0.001, 0.95),
        (of_table("dft"), 0.001, 1.0),
        (of_table("dft_k3"), 0.001, 0.00102084),
        (of_table("dft_k3"), 0.012, 0.020),  # below λ/4, where c = 0
        (of_table("dft_k3"), 0.013, 1.0),
    ],
)
def test_dft_k3_freezes_unlikely_tokens_which_asft_learns(
    loss: Callable[[Tensor, Tensor], Tensor], before: float, after: float
) -> None:
    """Gradient descent on the logits of one token, from the reference to where it stays."""
    reference_V = torch.tensor([before, *[(1 - before) / 30] * 30], dtype=torch.float64).log()
    logits_V = reference_V.clone().requires_grad_()
    for _ in range(4000):
        (gradient_V,) = torch.autograd.grad(loss(logits_V, reference_V), logits_V)
        logits_V = (logits_V - 2.0 * gradient_V).detach().requires_grad_()
    assert logits_V.softmax(-1)[0].item() == pytest.approx(after, rel=0.002)


def test_iw_sft_has_one_weight_for_the_whole_response() -> None:
    weights = make_loss("iw_sft").coefficient(stats(given(1, 1.0)))
    assert [len(set(weights[response == RESPONSES].tolist())) for response in range(3)] == [1, 1, 1]
    assert len(set(weights.tolist())) == 3


def test_an_unknown_loss_is_refused_with_a_list_of_all() -> None:
    with pytest.raises(InputError, match=r"no loss 'nope'; losses: sft, dft, .*, opd$"):
        make_loss("nope")


@pytest.mark.parametrize(
    "name, message",
    [
        ("idft_sg", "no loss 'idft_sg': it is called idft now"),
        ("asft_k3", "no loss 'asft_k3': it is called dft_k3 now, because it is not ASFT"),
    ],
)
def test_an_old_name_is_refused_with_the_new_one(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_loss(name)
    with pytest.raises(InputError, match=rf"'train\.loss': {message}"):
        resolve({"policy": {"model": "m"}, "data": {"path": "d"}, "train": {"loss": name}})


@pytest.mark.parametrize("p", ["current", "scored"])
def test_opd_estimates_the_reverse_kl_divergence_and_its_gradient(p: str) -> None:
    """On average over tokens drawn from the policy; with `scored` as long as the policy is the one that was scored."""
    torch.manual_seed(3)
    logits_V = (2 * torch.randn(31, dtype=torch.float64)).requires_grad_()
    logp_V, log_teacher_V = logits_V.log_softmax(-1), (2 * torch.randn(31, dtype=torch.float64)).log_softmax(-1)
    p_V = logp_V.exp()
    divergence = (p_V * (logp_V - log_teacher_V)).sum()
    tokens = TokenStats(logp_V.detach(), reference_logprob_T=logp_V.detach(), teacher_logprob_T=log_teacher_V)
    c_V = make_loss("opd", clip=1e9, p=p).coefficient(tokens)
    torch.testing.assert_close(-(p_V * c_V).sum(), divergence)
    ours_V = torch.autograd.grad(-(p_V.detach() * c_V * logp_V).sum(), logits_V, retain_graph=True)
    torch.testing.assert_close(ours_V, torch.autograd.grad(divergence, logits_V))
