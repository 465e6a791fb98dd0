"""Model FLOPs utilisation: the share of a GPU's arithmetic that training uses, as the PaLM paper counts it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

# Dense bfloat16 operations a second, from the vendor's data sheets (without sparsity).
_PEAK = {"H100": 989e12, "H200": 989e12, "B200": 2250e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}


class ModelSize(NamedTuple):
    """What decides how many operations a token takes."""

    num_parameters: int  # without the input embedding; a tied output head counts, since it is multiplied with
    num_layers: int
    attention_width: int  # heads times the size of each

    @classmethod
    def of(cls, model: Any) -> "ModelSize":
        """The size of a transformers model."""
        config = model.config.get_text_config()
        embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        num_parameters = sum(parameter.numel() for parameter in model.parameters())
        if embedding is not head:
            num_parameters -= embedding.numel()
        head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(num_parameters, config.num_hidden_layers, config.num_attention_heads * head_width)


def training_flops(size: ModelSize, lengths: Sequence[int]) -> float:
    """Operations of the forward and backward passes over examples of these lengths in tokens.

    Six for each parameter of a matrix product and token (two forward, four backward), and for attention
    12 · layers · width · Σ length² / 2, half because it is causal (arXiv 2204.02311, Appendix B). Recomputed
    activations do not count.
    """
    num_tokens, num_pairs = sum(lengths), sum(length**2 for length in lengths)
    return 6.0 * size.num_parameters * num_tokens + 6.0 * size.num_layers * size.attention_width * num_pairs


def peak_flops(device_name: str) -> float | None:
    """Operations a second of one GPU in bfloat16, by its name; None for those not in the table.

    >>> peak_flops("NVIDIA H100 80GB HBM3")
    989000000000000.0
    """
    words = device_name.replace("-", " ").split()
    return next((_PEAK[word] for word in words if word in _PEAK), None)


def flops_utilization(
    size: ModelSize, lengths: Sequence[int], seconds: float, num_workers: int, device: torch.device
) -> dict[str, float]:
    """`model_flops_utilization`, 0..1, of a step on GPUs whose peak is known; empty elsewhere."""
    peak = peak_flops(torch.cuda.get_device_name()) if device.type == "cuda" else None
    if peak is None:
        return {}
    return {"model_flops_utilization": training_flops(size, lengths) / seconds / (peak * num_workers)}
