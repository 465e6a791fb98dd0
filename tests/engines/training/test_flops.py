"""Model FLOPs utilisation: the documented formula, and the table of GPUs."""

import pytest

from ossft_ray.engines.training.flops import ModelSize, peak_flops, training_flops


def test_training_flops_are_those_of_the_documented_formula() -> None:
    """6 for each parameter and token; 12 for each layer, channel and pair of tokens, halved by causal attention."""
    by_hand = 6 * 1000 * (10 + 4) + 12 * 3 * 16 * (10**2 + 4**2) / 2
    assert training_flops(ModelSize(num_parameters=1000, num_layers=3, attention_width=16), [10, 4]) == pytest.approx(
        by_hand
    )


@pytest.mark.parametrize(
    "name, known", [("NVIDIA H100 80GB HBM3", True), ("NVIDIA A100-SXM4-80GB", True), ("abacus", False)]
)
def test_peak_of_known_gpus(name: str, known: bool) -> None:
    peak = peak_flops(name)
    assert (peak is not None) == known
    assert peak is None or 1e14 < peak < 1e16
