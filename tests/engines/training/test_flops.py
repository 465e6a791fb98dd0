"""Model FLOPs utilisation: the documented formula, and the table of GPUs."""

import pytest

from ossft_ray.config import Lora, Policy, Train
from ossft_ray.engines.training.flops import ModelSize, peak_flops, training_flops
from ossft_ray.engines.training.policy_model import load_model


def test_training_flops_are_those_of_the_documented_formula() -> None:
    """6 for each trained parameter and token, 4 for a frozen one; 12 for each layer, channel and pair of tokens, halved
    by causal attention.
    """
    by_hand = (6 * 1000 + 4 * 500) * (10 + 4) + 12 * 3 * 16 * (10**2 + 4**2) / 2
    size = ModelSize(num_trained=1000, num_frozen=500, num_layers=3, attention_width=16)
    assert training_flops(size, [10, 4]) == pytest.approx(by_hand)


def test_adapters_are_trained_and_the_rest_is_frozen() -> None:
    full, adapted = (
        ModelSize.of(load_model(Policy(model="playground"), Train(lora=lora))[0]) for lora in (None, Lora(rank=4))
    )
    assert full.num_trained == adapted.num_frozen > 10 * adapted.num_trained > 0 == full.num_frozen


@pytest.mark.parametrize(
    "name, peak",
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA H20", 148e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100 80GB PCIe", 312e12),
        ("NVIDIA A30", 165e12),
        ("NVIDIA A10G", None),  # a different chip from the A10
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L40", 181e12),
        ("NVIDIA B200", 2250e12),
        ("NVIDIA RTX 6000 Ada Generation", 364e12),
        ("Quadro RTX 6000", None),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("abacus", None),
    ],
)
def test_peaks(name: str, peak: float | None) -> None:
    assert peak_flops(name) == peak
