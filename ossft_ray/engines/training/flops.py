"""How much of a GPU's arithmetic does training use? Model FLOPs utilisation, as the PaLM paper counts it."""

from collections.abc import Sequence

# Dense bfloat16 operations a second, from the vendor's data sheets (without sparsity).
_PEAK = {"H100": 989e12, "H200": 989e12, "B200": 2250e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}


def training_flops(num_parameters: int, num_layers: int, attention_width: int, lengths: Sequence[int]) -> float:
    """Operations that forward and backward passes over these examples take, recomputed activations not counted.

    Six for each parameter of a matrix product and token (two forward, four backward), and for attention
    12 · layers · width · Σ length² / 2, half because it is causal (arXiv 2204.02311, Appendix B).

    Args:
        num_parameters: of all but the input embedding; a tied output head counts, since it is multiplied with.
        attention_width: heads times the size of each.
        lengths: tokens of each example.
    """
    num_tokens, num_pairs = sum(lengths), sum(length**2 for length in lengths)
    return 6.0 * num_parameters * num_tokens + 6.0 * num_layers * attention_width * num_pairs


def peak_flops(device_name: str) -> float | None:
    """Of one GPU in bfloat16 by its name; None for those not in the table.

    >>> peak_flops("NVIDIA H100 80GB HBM3")
    989000000000000.0
    """
    words = device_name.replace("-", " ").split()
    return next((_PEAK[word] for word in words if word in _PEAK), None)
