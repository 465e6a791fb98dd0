"""Model FLOPs utilisation: the share of a GPU's arithmetic that training uses, as the PaLM paper counts it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

# Dense bfloat16 operations a second with float32 sums, from the vendor's data sheets (without sparsity), by words of a
# GPU's name. The first row whose words are all in the name counts.
_PEAKS = (
    ("GH200", 989e12), ("H100 PCIe", 756e12), ("H100 NVL", 835e12), ("H100", 989e12), ("H200 NVL", 835e12),
    ("H200", 989e12), ("H800 PCIe", 756e12), ("H800", 989e12), ("H20", 148e12), ("GB200", 2500e12), ("B200", 2250e12),
    ("A100", 312e12), ("A800", 312e12), ("A30", 165e12), ("A10", 125e12), ("A40", 150e12), ("L40S", 362e12),
    ("L40", 181e12), ("L4", 121e12), ("RTX 6000 Ada", 364e12), ("RTX 4090", 165e12), ("RTX 3090", 71e12),
)  # fmt: skip
_OTHER_CHIPS = {"Laptop", "D"}  # mark slower variants of a known name


class ModelSize(NamedTuple):
    """What decides how many operations a token takes. Input embeddings are looked up, not multiplied with."""

    num_trained: int  # parameters; a tied output head counts
    num_frozen: int
    num_layers: int
    attention_width: int  # heads times the size of each

    @classmethod
    def of(cls, model: Any) -> "ModelSize":
        """The size of a transformers model, whose weights may be sharded."""
        config = model.config.get_text_config()
        embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        counts = {True: 0, False: 0}
        for parameter in model.parameters():
            if parameter is head or parameter is not embedding:
                counts[parameter.requires_grad] += getattr(parameter, "ds_numel", parameter.numel())
        head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(counts[True], counts[False], config.num_hidden_layers, config.num_attention_heads * head_width)


def training_flops(size: ModelSize, lengths: Sequence[int]) -> float:
    """Operations of the forward and backward passes over examples of these lengths in tokens.

    Each token takes, for each parameter of a matrix product, two forward, two for the gradient of the input and, if the
    parameter is trained, two for its gradient. Attention takes 12 · layers · width · Σ length² / 2, half because it is
    causal (arXiv 2204.02311, Appendix B). Recomputed activations do not count.
    """
    num_tokens, num_pairs = sum(lengths), sum(length**2 for length in lengths)
    of_parameters = (6.0 * size.num_trained + 4.0 * size.num_frozen) * num_tokens
    return of_parameters + 6.0 * size.num_layers * size.attention_width * num_pairs


def peak_flops(device_name: str) -> float | None:
    """Operations a second of one GPU in bfloat16, by its name; None if it is not in the table.

    >>> peak_flops("NVIDIA H100 80GB HBM3")
    989000000000000.0
    """
    words = set(device_name.replace("-", " ").split())
    if words & _OTHER_CHIPS:
        return None
    return next((peak for name, peak in _PEAKS if words.issuperset(name.split())), None)


def flops_utilization(
    size: ModelSize, lengths: Sequence[int], seconds: float, num_workers: int, device: torch.device
) -> dict[str, float]:
    """`model_flops_utilization`, 0..1, of a step on GPUs whose peak is known; empty elsewhere."""
    peak = peak_flops(torch.cuda.get_device_name()) if device.type == "cuda" else None
    if peak is None:
        return {}
    return {"model_flops_utilization": training_flops(size, lengths) / seconds / (peak * num_workers)}
