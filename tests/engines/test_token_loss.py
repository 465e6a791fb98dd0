"""The chunked loss equals its plain computation on all logits at once: values, gradients, memory."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ossft_ray.common.errors import InputError
from ossft_ray.engines import token_loss as module
from ossft_ray.engines.tied_embedding import TiedEmbedding
from ossft_ray.engines.token_loss import LossHead, LossInputs, token_loss
from ossft_ray.method.coefficients import LOSSES, Loss, TokenStats, make_loss

VOCABULARY = 31


def _unchunked(
    hidden_NC: Tensor, head_VC: Tensor, targets_N: Tensor, name: str, inputs: LossInputs
) -> tuple[Tensor, TokenStats, Tensor]:
    """The same loss in plain PyTorch, on all logits at once."""
    logits_NV = hidden_NC @ head_VC.T
    logprob_N = logits_NV.log_softmax(-1).gather(1, targets_N[:, None])[:, 0]
    top_NK = logits_NV.detach().sort(-1, descending=True).values[:, :20].softmax(-1)
    stats = TokenStats(
        logprob_N.detach(),
        torch.special.entr(logits_NV.detach().softmax(-1)).sum(-1),
        torch.special.entr(top_NK).sum(-1),
        inputs.reference_logprob_N,
        inputs.response_N,
        inputs.progress,
        inputs.behavior_logprob_N,
        logits_NV.detach().softmax(-1).square().sum(-1),
        inputs.teacher_logprob_N,
        inputs.reference_mass_N,
    )
    coefficient_N = make_loss(name).coefficient(stats)
    return -(coefficient_N * logprob_N).sum(), stats, coefficient_N


def _inputs(num_tokens: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, LossInputs]:
    generator = torch.Generator().manual_seed(1)
    hidden_NC = torch.randn(num_tokens, 7, generator=generator, dtype=torch.float64)
    head_VC = torch.randn(VOCABULARY, 7, generator=generator, dtype=torch.float64)
    targets_N = torch.randint(VOCABULARY, (num_tokens,), generator=generator)
    reference_N = -3 * torch.rand(num_tokens, generator=generator, dtype=torch.float64)
    response_N = torch.arange(num_tokens) // 7  # responses that chunks of 5 cut in two
    others = {
        "behavior_logprob_N": reference_N.flip(0),
        "teacher_logprob_N": 2 * reference_N.flip(0),
        "reference_mass_N": reference_N.exp(),
    }
    inputs = LossInputs(reference_N, response_N, progress=0.27, **others)
    return hidden_NC.to(dtype).requires_grad_(), head_VC.to(dtype).requires_grad_(), targets_N, inputs


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("num_tokens, chunk_tokens", [(23, 5), (23, 23), (20, 5), (1, 5), (23, None), (0, 5)])
def test_value_and_gradients_equal_the_unchunked_loss(name: str, num_tokens: int, chunk_tokens: int | None) -> None:
    hidden_NC, head_VC, targets_N, inputs = _inputs(num_tokens)
    losses = token_loss(hidden_NC, head_VC, targets_N, make_loss(name), inputs, chunk_tokens)
    expected, stats, coefficient_N = _unchunked(hidden_NC, head_VC, targets_N, name, inputs)
    torch.testing.assert_close(losses.loss, expected)
    torch.testing.assert_close(losses.logprob_N, stats.logprob_T)
    torch.testing.assert_close(losses.entropy_N, stats.entropy_T)
    torch.testing.assert_close(losses.coefficient_N, coefficient_N)
    ours = torch.autograd.grad(0.3 * losses.loss, [hidden_NC, head_VC])
    theirs = torch.autograd.grad(0.3 * expected, [hidden_NC, head_VC])
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their)
    assert not any(part.requires_grad for part in (losses.logprob_N, losses.coefficient_N, losses.entropy_N))


@pytest.mark.parametrize("chunk_tokens", [1, 5, None])
def test_ranks_count_the_likelier_tokens_and_masses_add_up_the_others_on_request(chunk_tokens: int | None) -> None:
    hidden_NC, head_VC, targets_N, _ = _inputs(23)
    assert token_loss(hidden_NC, head_VC, targets_N, make_loss("dft"), None, chunk_tokens).rank_N is None
    losses = token_loss(hidden_NC, head_VC, targets_N, make_loss("dft"), LossInputs(with_ranks=True), chunk_tokens)
    probability_NV = (hidden_NC @ head_VC.T).softmax(-1)
    target_N1 = probability_NV.gather(1, targets_N[:, None])
    torch.testing.assert_close(losses.mass_N, probability_NV.where(probability_NV <= target_N1, 0.0).sum(-1).detach())
    order_NV = (hidden_NC @ head_VC.T).argsort(-1, descending=True)
    expected = [order.tolist().index(target) + 1 for order, target in zip(order_NV, targets_N.tolist(), strict=True)]
    assert losses.rank_N is not None and losses.rank_N.tolist() == expected
    losses.loss.backward()
    assert hidden_NC.grad is not None, "they do not disturb the gradient"
    undisturbed = token_loss(hidden_NC, head_VC, targets_N, make_loss("dft"), None, chunk_tokens).loss
    torch.testing.assert_close(torch.autograd.grad(undisturbed, hidden_NC)[0], hidden_NC.grad)


@pytest.mark.parametrize("name", LOSSES)
def test_tied_embeddings_get_both_gradients(name: str) -> None:
    _, table_VC, targets_N, inputs = _inputs(23)
    input_ids_N = targets_N.roll(1)
    mix_CC = torch.randn(7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    hidden_NC = [(table_VC[input_ids_N] @ mix_CC).tanh() for _ in range(2)]
    ours = token_loss(hidden_NC[0], table_VC, targets_N, make_loss(name), inputs, 5).loss
    theirs = _unchunked(hidden_NC[1], table_VC, targets_N, name, inputs)[0]
    torch.testing.assert_close(torch.autograd.grad(ours, table_VC), torch.autograd.grad(theirs, table_VC))


@pytest.mark.parametrize("padding_idx", [None, 3])
@pytest.mark.parametrize("num_passes", [1, 2])
def test_a_tied_embedding_adds_to_the_heads_gradient(num_passes: int, padding_idx: int | None) -> None:
    """The gradient equals autograd's for two uses of one weight, and arrives once per backward pass."""
    _, table_VC, targets_N, _ = _inputs(23)
    input_ids_N = targets_N.roll(1).where(torch.arange(23) % 5 > 0, 3)
    plain = torch.nn.Embedding(*table_VC.shape, padding_idx=padding_idx, _weight=table_VC.detach().clone())
    head = LossHead(torch.nn.Parameter(table_VC.detach().clone()), make_loss("dft"))
    embedding, arrived = TiedEmbedding(head, padding_idx), []
    head.weight.register_hook(lambda grad: arrived.append(grad.shape))
    for _ in range(num_passes):
        head(embedding(input_ids_N).tanh(), targets_N)[0].mul(0.5).backward()
        token_loss(plain(input_ids_N).tanh(), plain.weight, targets_N, make_loss("dft")).loss.mul(0.5).backward()
    torch.testing.assert_close(head.weight.grad, plain.weight.grad)
    assert len(arrived) == num_passes


@pytest.mark.parametrize("chunk_tokens", [5, 64])  # summed over chunks, and in one
@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_is_close_to_double_precision(name: str, chunk_tokens: int) -> None:
    hidden_NC, head_VC, targets_N, inputs = _inputs(23, torch.bfloat16)
    losses = token_loss(hidden_NC, head_VC, targets_N, make_loss(name), inputs, chunk_tokens)
    assert losses.loss.dtype == losses.logprob_N.dtype == torch.float32
    logits_NV = hidden_NC.detach().float() @ head_VC.detach().float().T  # never rounded to bfloat16
    torch.testing.assert_close(losses.logprob_N, logits_NV.log_softmax(-1).gather(1, targets_N[:, None])[:, 0])
    losses.loss.backward()
    assert hidden_NC.grad is not None and hidden_NC.grad.dtype == torch.bfloat16
    wide = [tensor.detach().double().requires_grad_() for tensor in (hidden_NC, head_VC)]
    expected = torch.autograd.grad(_unchunked(*wide, targets_N, name, inputs)[0], wide)
    for our, their in zip([hidden_NC.grad, head_VC.grad], expected, strict=True):
        torch.testing.assert_close(our.double(), their, rtol=0.05, atol=0.03 * their.abs().max().item())


def test_a_sure_token_keeps_its_small_gradient_in_half_precision() -> None:
    """p - 1 is taken before rounding: in bfloat16 p = 0.999 is 1, and the gradient would be gone."""
    hidden_NC = torch.tensor([[7.0]], dtype=torch.bfloat16, requires_grad=True)
    head_VC = torch.tensor([[1.0], [0.0]], dtype=torch.bfloat16)
    token_loss(hidden_NC, head_VC, torch.tensor([0]), make_loss("sft")).loss.backward()
    expected = torch.sigmoid(torch.tensor(7.0)).item() - 1
    assert hidden_NC.grad.item() == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("frozen", ["head", "hidden", "both"])
def test_frozen_inputs_get_no_gradient(frozen: str) -> None:
    hidden_NC, head_VC, targets_N, inputs = _inputs(23)
    hidden_NC.requires_grad_(frozen == "head")
    head_VC.requires_grad_(frozen == "hidden")
    loss = token_loss(hidden_NC, head_VC, targets_N, make_loss("sft"), None, 5).loss
    assert loss.requires_grad == (frozen != "both")
    torch.testing.assert_close(loss, _unchunked(hidden_NC, head_VC, targets_N, "sft", inputs)[0])


def test_gradients_are_not_computed_under_no_grad(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden_NC, head_VC, targets_N, inputs = _inputs(23)
    allocated = []
    plain = torch.empty_like
    monkeypatch.setattr(module.torch, "empty_like", lambda *a, **k: allocated.append(a) or plain(*a, **k))
    with torch.no_grad():
        loss = token_loss(hidden_NC, head_VC, targets_N, make_loss("sft"), inputs, 5).loss
    assert not allocated and not loss.requires_grad
    token_loss(hidden_NC, head_VC, targets_N, make_loss("sft"), inputs, 5)
    assert allocated


def test_loss_head_shares_the_weight() -> None:
    hidden_NC, head_VC, targets_N, inputs = _inputs(5)
    weight = torch.nn.Parameter(head_VC.detach())
    head = LossHead(weight, make_loss("sft"))
    assert list(head.parameters()) == [weight] and head.weight is weight
    expected = _unchunked(hidden_NC, head_VC, targets_N, "sft", inputs)[0]
    torch.testing.assert_close(head(hidden_NC, targets_N)[0], expected)


@pytest.mark.parametrize("name, sizes", [("sft", [5, 5, 5, 5, 3]), ("iw_sft", 2 * [5, 5, 5, 5, 3])])
def test_logits_of_all_tokens_never_exist_at_once(monkeypatch: pytest.MonkeyPatch, name: str, sizes: list[int]) -> None:
    """A loss that looks at whole responses goes over the tokens twice."""
    hidden_NC, head_VC, targets_N, inputs = _inputs(23)
    seen: list[int] = []
    plain = torch.softmax
    monkeypatch.setattr(torch, "softmax", lambda logits, *a, **k: seen.append(len(logits)) or plain(logits, *a, **k))
    token_loss(hidden_NC, head_VC, targets_N, make_loss(name), inputs, 5).loss.backward()
    assert seen == sizes


@pytest.mark.parametrize(
    "name, missing",
    [
        ("iw_sft", "reference_logprob_N and response_N"),
        ("psft", "reference_logprob_N"),
        ("is", "behavior_logprob_N"),
        ("opd", "reference_logprob_N and teacher_logprob_N"),
    ],
)
def test_missing_inputs_are_named(name: str, missing: str) -> None:
    hidden_NC, head_VC, targets_N, _ = _inputs(3)
    with pytest.raises(InputError, match=rf"^the loss needs {missing}; pass LossInputs"):
        token_loss(hidden_NC, head_VC, targets_N, make_loss(name))


def test_a_frequent_token_keeps_what_each_occurrence_adds_in_half_precision() -> None:
    """In bfloat16 1 + 0.001 is 1, so that a thousand occurrences would add nothing."""
    head = LossHead(torch.nn.Parameter(torch.zeros(3, 2, dtype=torch.bfloat16)), make_loss("sft"))
    embedding = TiedEmbedding(head)
    ids_N = torch.tensor([2] + 1000 * [0, 2])
    weight_NC = torch.full((2001, 2), 0.001).index_fill(0, torch.tensor([0]), 1.0)
    (embedding(ids_N) * weight_NC.bfloat16()).float().sum().backward()
    torch.testing.assert_close(
        head.weight.grad.float(), torch.tensor([[1.0, 1.0], [0.0, 0.0], [2.0, 2.0]]), rtol=0.01, atol=0
    )


def test_impossible_tokens_add_nothing_to_the_entropy() -> None:
    """-inf logits, also among the 20 most likely tokens: 0 log 0 is 0. NaN logits stay NaN."""
    hidden_NC = torch.tensor([[1.0, 2.0], [1.0, 0.5]])
    head_VC = torch.tensor([[0.0, 1.0], [0.0, -1.0], [float("-inf"), 0.0]])
    given: list[TokenStats] = []
    eaft = make_loss("eaft")
    loss = Loss(lambda stats: given.append(stats) or eaft.coefficient(stats), eaft.needs)
    with torch.no_grad():
        losses = token_loss(hidden_NC, head_VC, torch.tensor([0, 1]), loss)
        broken = token_loss(hidden_NC, head_VC * torch.nan, torch.tensor([0, 1]), loss)
    logprob_NV = (hidden_NC[:, 1:] * torch.tensor([1.0, -1.0])).log_softmax(-1)
    entropy_N = torch.special.entr(logprob_NV.exp()).sum(-1)
    torch.testing.assert_close(losses.entropy_N, entropy_N)
    torch.testing.assert_close(given[0].top_entropy_T, entropy_N)
    torch.testing.assert_close(losses.logprob_N, logprob_NV.diagonal())
    assert broken.entropy_N.isnan().all()


@pytest.mark.parametrize("name", LOSSES)
def test_weights_multiply_each_tokens_part_of_the_loss(name: str) -> None:
    """Value and gradients; the coefficients are those without weights."""
    hidden_NC, head_VC, targets_N, inputs = _inputs(23)
    weight_N = 1 / (1 + torch.arange(23, dtype=torch.float64) % 3)
    losses = token_loss(hidden_NC, head_VC, targets_N, make_loss(name), replace(inputs, weight_N=weight_N), 5)
    _, _, coefficient_N = _unchunked(hidden_NC, head_VC, targets_N, name, inputs)
    torch.testing.assert_close(losses.coefficient_N, coefficient_N)
    logprob_N = (hidden_NC @ head_VC.T).log_softmax(-1).gather(1, targets_N[:, None])[:, 0]
    expected = -(weight_N * coefficient_N * logprob_N).sum()
    torch.testing.assert_close(losses.loss, expected)
    ours, theirs = (torch.autograd.grad(loss, [hidden_NC, head_VC]) for loss in (losses.loss, expected))
    torch.testing.assert_close(ours, theirs)
