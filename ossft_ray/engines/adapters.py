"""LoRA adapters: put into the policy for training, and merged into its weights afterwards."""

from typing import Any

import torch
from torch import Tensor

from ossft_ray.common.errors import InputError, brief
from ossft_ray.config import Lora
from ossft_ray.engines.training.deepspeed_engine import gathered


def add_adapters(model: Any, lora: Lora) -> None:
    """Put LoRA adapters next to the linear layers, in place, and freeze everything else.

    Raises:
        InputError: peft is not installed, or a named module is not in the model.
    """
    peft = _import_peft("[train.lora]")
    targets: Any = lora.target_modules if lora.target_modules != ["all-linear"] else "all-linear"
    if targets == "all-linear":  # peft leaves out the output head only in its own wrappers
        head = model.get_output_embeddings()
        layers = (
            name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and module is not head
        )
        targets = sorted({name.rpartition(".")[2] for name in layers})
    config = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets, task_type="CAUSAL_LM"
    )
    try:
        peft.inject_adapter_in_model(config, model)
    except ValueError as error:
        raise InputError(f"[train.lora] target_modules: {brief(error)}") from error
    dtype = next(model.parameters()).dtype
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
        parameter.data = parameter.data.to(dtype)  # peft creates adapters in float32
    # with frozen embeddings, recomputed activations would have nothing to send a gradient to
    model.enable_input_require_grads()


def merge_adapters(weights: dict[str, Tensor], lora: Lora | None) -> dict[str, Tensor]:
    """The weights under the names of a model without adapters: W + (α / r) B A where a layer has one."""
    if lora is None:
        return weights
    merged = {}
    for name, weight in weights.items():
        if ".lora_" in name:
            continue
        layer = name.removesuffix(".base_layer.weight")
        if layer != name:
            a_RC, b_DR = (weights[f"{layer}.lora_{factor}.default.weight"].float() for factor in "AB")
            weight = (weight.float() + (lora.alpha / lora.rank) * (b_DR @ a_RC)).to(weight.dtype)
        merged[name.replace(".base_layer.", ".")] = weight
    return merged


def merge_policy_adapter(model: Any, folder: str) -> Any:
    """The model with a saved adapter merged into its weights; raises InputError if peft is not installed."""
    peft = _import_peft("[policy] lora")
    adapted = peft.PeftModel.from_pretrained(model, folder)
    for module in adapted.modules():
        if isinstance(module, peft.tuners.tuners_utils.BaseTunerLayer):
            with gathered(module.get_base_layer().parameters(), modified=True):
                module.merge()
    return adapted.unload()


def _import_peft(key: str) -> Any:
    try:
        import peft
    except ImportError as error:
        raise InputError(f"{key}: needs peft; pip install peft") from error
    return peft
