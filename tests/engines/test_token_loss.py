import pytest
import torch

from ossft_ray.engines.token_loss import LossHead, token_loss
from ossft_ray.method.coefficients import COEFFICIENTS, TokenStats


def _unchunked(hidden_NC, head_VC, targets_N, name):
    logprob_N = (hidden_NC @ head_VC.T).log_softmax(-1).gather(1, targets_N[:, None])[:, 0]
    return -(COEFFICIENTS[name](TokenStats(logprob_N.detach())) * logprob_N).sum(), logprob_N.detach()


def _inputs(num_tokens: int, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(1)
    hidden_NC = torch.randn(num_tokens, 7, generator=generator, dtype=torch.float64)
    head_VC = torch.randn(13, 7, generator=generator, dtype=torch.float64)
    targets_N = torch.randint(13, (num_tokens,), generator=generator)
    return hidden_NC.to(dtype).requires_grad_(), head_VC.to(dtype).requires_grad_(), targets_N


@pytest.mark.parametrize("name", sorted(COEFFICIENTS))
@pytest.mark.parametrize("num_tokens, chunk_tokens", [(23, 5), (23, 23), (20, 5), (1, 5), (23, None), (0, 5)])
def test_value_and_gradients_equal_the_unchunked(name: str, num_tokens: int, chunk_tokens: int | None) -> None:
    hidden_NC, head_VC, targets_N = _inputs(num_tokens)
    loss, logprob_N = token_loss(hidden_NC, head_VC, targets_N, COEFFICIENTS[name], chunk_tokens)
    expected, expected_logprob_N = _unchunked(hidden_NC, head_VC, targets_N, name)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(logprob_N, expected_logprob_N)
    ours = torch.autograd.grad(0.3 * loss, [hidden_NC, head_VC])
    theirs = torch.autograd.grad(0.3 * expected, [hidden_NC, head_VC])
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their)
    assert not logprob_N.requires_grad


@pytest.mark.parametrize("name", sorted(COEFFICIENTS))
def test_tied_embeddings_get_both_gradients(name: str) -> None:
    _, table_VC, targets_N = _inputs(23)
    input_ids_N = targets_N.roll(1)
    mix_CC = torch.randn(7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    ours = token_loss((table_VC[input_ids_N] @ mix_CC).tanh(), table_VC, targets_N, COEFFICIENTS[name], 5)[0]
    theirs = _unchunked((table_VC[input_ids_N] @ mix_CC).tanh(), table_VC, targets_N, name)[0]
    torch.testing.assert_close(torch.autograd.grad(ours, table_VC), torch.autograd.grad(theirs, table_VC))


def test_softmax_is_taken_in_float32_for_half_precision() -> None:
    hidden_NC, head_VC, targets_N = _inputs(23, torch.bfloat16)
    loss, logprob_N = token_loss(hidden_NC, head_VC, targets_N, COEFFICIENTS["dft"], 5)
    assert loss.dtype == logprob_N.dtype == torch.float32
    logits_NV = (hidden_NC @ head_VC.T).detach().float()  # the product itself is in bfloat16
    torch.testing.assert_close(logprob_N, logits_NV.log_softmax(-1).gather(1, targets_N[:, None])[:, 0])
    loss.backward()
    assert hidden_NC.grad is not None and hidden_NC.grad.dtype == torch.bfloat16
    wide = [tensor.detach().double().requires_grad_() for tensor in (hidden_NC, head_VC)]
    expected = torch.autograd.grad(_unchunked(*wide, targets_N, "dft")[0], wide)
    for our, their in zip([hidden_NC.grad, head_VC.grad], expected, strict=True):
        torch.testing.assert_close(our.double(), their, rtol=0.05, atol=0.03)


@pytest.mark.parametrize("frozen", ["head", "hidden", "both"])
def test_frozen_inputs_get_no_gradient(frozen: str) -> None:
    hidden_NC, head_VC, targets_N = _inputs(23)
    hidden_NC.requires_grad_(frozen == "head")
    head_VC.requires_grad_(frozen == "hidden")
    loss, _ = token_loss(hidden_NC, head_VC, targets_N, COEFFICIENTS["sft"], 5)
    assert loss.requires_grad == (frozen != "both")
    torch.testing.assert_close(loss, _unchunked(hidden_NC, head_VC, targets_N, "sft")[0])


def test_loss_head_shares_the_weight() -> None:
    hidden_NC, head_VC, targets_N = _inputs(5)
    weight = torch.nn.Parameter(head_VC.detach())
    head = LossHead(weight, COEFFICIENTS["sft"])
    assert list(head.parameters()) == [weight] and head.weight is weight
    torch.testing.assert_close(head(hidden_NC, targets_N)[0], _unchunked(hidden_NC, head_VC, targets_N, "sft")[0])


def test_logits_of_all_tokens_never_exist_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden_NC, head_VC, targets_N = _inputs(23)
    sizes: list[int] = []
    plain = torch.log_softmax
    monkeypatch.setattr(torch, "log_softmax", lambda logits, dim: sizes.append(len(logits)) or plain(logits, dim=dim))
    token_loss(hidden_NC, head_VC, targets_N, COEFFICIENTS["sft"], 5)[0].backward()
    assert sizes == [5, 5, 5, 5, 3]
