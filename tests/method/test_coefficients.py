import pytest
import torch

from ossft_ray.config import Train
from ossft_ray.method.coefficients import COEFFICIENTS, TokenStats

# each loss as its source writes it: a function of the logits and the targets, differentiated as it stands
SOURCES = {
    "sft": lambda logp_T: -logp_T.sum(),
    "dft": lambda logp_T: -(logp_T.exp().detach() * logp_T).sum(),  # arXiv 2508.05629, Equation 9
}


def _logprobs(logits_TV: torch.Tensor, targets_T: torch.Tensor) -> torch.Tensor:
    return logits_TV.log_softmax(-1).gather(1, targets_T[:, None])[:, 0]


def test_every_loss_of_the_config_has_a_coefficient_and_a_source() -> None:
    names = set(Train.model_fields["loss"].annotation.__args__)
    assert names == set(COEFFICIENTS) == set(SOURCES)


@pytest.mark.parametrize("name", sorted(COEFFICIENTS))
def test_coefficient_has_the_gradient_of_its_source(name: str) -> None:
    torch.manual_seed(0)
    logits_TV = 3 * torch.randn(20, 11, dtype=torch.float64)
    targets_T = torch.randint(11, (20,))
    ours_TV, source_TV = logits_TV.clone().requires_grad_(), logits_TV.clone().requires_grad_()
    logprob_T = _logprobs(ours_TV, targets_T)
    loss = -(COEFFICIENTS[name](TokenStats(logprob_T.detach())) * logprob_T).sum()
    expected = SOURCES[name](_logprobs(source_TV, targets_T))
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(ours_TV.grad, source_TV.grad)


@pytest.mark.parametrize(
    "name, logprob, expected", [("sft", -5.0, 1.0), ("dft", 0.0, 1.0), ("dft", -1.0, 0.36787944), ("dft", -200.0, 0.0)]
)
def test_values(name: str, logprob: float, expected: float) -> None:
    assert COEFFICIENTS[name](TokenStats(torch.tensor([logprob]))).item() == pytest.approx(expected)
