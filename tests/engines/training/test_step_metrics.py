"""Figures of a step's tokens against values worked out by hand."""

import math

import pytest
import torch

from ossft_ray.common.types import ORIGINS
from ossft_ray.engines.token_loss import TokenLosses
from ossft_ray.engines.training.batches import Examples, TokenizedExample, collate
from ossft_ray.engines.training.forward import ForwardOutput
from ossft_ray.engines.training.step_metrics import TokenSums

# an easy problem with two rows of two tokens, and a hard one with one row of one token
EXAMPLES = Examples.build(
    [
        TokenizedExample("easy", [1], [2, 3], "self"),
        TokenizedExample("easy", [1], [2, 3], "self"),
        TokenizedExample("hard", [1], [2], "expert"),
    ]
)
P = torch.tensor([0.5, 0.5, 0.5, 0.5, 0.25])


def metrics_of(weight_N: torch.Tensor | None) -> dict[str, float]:
    tensors = collate(EXAMPLES, range(3), [[0, 1, 2]])
    losses = TokenLosses(torch.zeros(()), P.log(), P, torch.ones(5))  # DFT's coefficients
    sums = TokenSums("cpu")
    sums.add(ForwardOutput(tensors, losses, weight_N))
    return sums.metrics()


def test_every_token_counts_alike_without_weights() -> None:
    found = metrics_of(None)
    assert found["cross_entropy"] == pytest.approx((4 * math.log(2) + math.log(4)) / 5)
    assert found["loss"] == pytest.approx((4 * 0.5 * math.log(2) + 0.25 * math.log(4)) / 5)
    assert (found["self/tokens"], found["expert/tokens"]) == (4, 1)
    assert not {f"{origin}/loss" for origin in ORIGINS if origin == "guided"} & found.keys()


def test_with_weights_the_figures_are_weighted_means() -> None:
    """Two rows of the easy problem count as one: two tokens in all, next to one of the hard problem."""
    found = metrics_of(torch.tensor([0.5, 0.5, 0.5, 0.5, 1.0]))
    assert found["cross_entropy"] == pytest.approx((2 * math.log(2) + math.log(4)) / 3)
    assert found["loss"] == pytest.approx((2 * 0.5 * math.log(2) + 0.25 * math.log(4)) / 3)
    assert found["mean_token_probability"] == found["coefficient_mean"] == pytest.approx(1.25 / 3)
    assert found["coefficient_variance"] == pytest.approx((2 * 0.25 + 0.0625) / 3 - (1.25 / 3) ** 2)
    assert found["effective_sample_size"] == pytest.approx(1.25**2 / (3 * (2 * 0.25 + 0.0625)))
    assert found["entropy"] == pytest.approx(1.0)
    assert (found["self/tokens"], found["expert/tokens"]) == (4, 1)
    assert found["self/cross_entropy"] == pytest.approx(math.log(2))
