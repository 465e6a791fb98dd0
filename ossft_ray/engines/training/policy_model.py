"""The policy as one module from token ids to its loss: loading it, and what its training takes from its config."""

from typing import Any

import torch
from torch import Tensor

from ossft_ray.common.errors import InputError
from ossft_ray.config import Lora, Policy, Train
from ossft_ray.engines import packed_attention
from ossft_ray.engines.tied_embedding import TiedEmbedding
from ossft_ray.engines.token_loss import Context, LossHead
from ossft_ray.engines.training.batches import Tensors
from ossft_ray.method.coefficients import Loss
from ossft_ray.policy.location import model_path

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
_PROBE = 4  # tokens of each of two examples


class PolicyLoss(torch.nn.Module):
    """The policy from token ids to its loss, as one module: DeepSpeed gathers sharded weights module by module."""

    def __init__(self, model: Any, loss: Loss) -> None:
        super().__init__()
        self.model = model
        embedding, weight = model.get_input_embeddings(), model.get_output_embeddings().weight
        head = LossHead(weight, loss)
        if type(embedding) is torch.nn.Embedding and embedding.weight is weight and weight.requires_grad:
            model.set_input_embeddings(TiedEmbedding(head, embedding.padding_idx))
        model.set_output_embeddings(head)

    def forward(self, tensors: Tensors, context: Context) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Σ c_t · (-log p_t) over the micro-batch's response tokens, and their logprob_N, coefficient_N, entropy_N."""
        outputs = self.model.base_model(
            tensors.input_ids_BT, position_ids=tensors.position_ids_BT, use_cache=False, **_boundaries(tensors)
        )
        hidden_NC = outputs.last_hidden_state.flatten(0, 1).index_select(0, tensors.sources_N)
        head: LossHead = self.model.get_output_embeddings()
        return head(hidden_NC, tensors.targets_N, context)


def _boundaries(tensors: Tensors) -> dict[str, Any]:
    """For packed attention; without them, and without a mask, transformers goes by the position ids."""
    if tensors.boundaries is None:
        return {}
    return {"boundaries": tensors.boundaries, "longest": int(tensors.boundaries.diff().max())}


def load_model(policy: Policy, settings: Train) -> tuple[Any, bool]:
    """The policy as transformers has it, in the training dtype; and whether it takes all examples in one flat row.

    Raises:
        InputError: its logits are not a plain product with its output head (a bias, a scale, a soft cap), which the
            chunked loss would get silently wrong.
    """
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        model_path(policy.model, weights=True),
        revision=policy.revision,
        dtype=DTYPES[settings.precision],
        trust_remote_code=policy.trust_remote_code,
        use_safetensors=True,  # others are pickles
    )
    if policy.lora is not None:
        model = _merge_adapter(model, policy.lora)
    _refuse_other_heads(model, policy.model)
    flat = settings.packing and _can_be_flat(model)
    if settings.lora is not None:
        add_adapters(model, settings.lora)
    if settings.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model, flat


def _refuse_other_heads(model: Any, name: str) -> None:
    probe_BT = torch.arange(_PROBE)[None]
    with torch.no_grad():
        hidden_BTC = model.base_model(probe_BT, use_cache=False).last_hidden_state
        plain_BTV = hidden_BTC @ model.get_output_embeddings().weight.T
        logits_BTV = model(probe_BT, use_cache=False).logits
    if not torch.allclose(plain_BTV, logits_BTV, rtol=0.05, atol=0.05 * logits_BTV.abs().max().item()):
        raise InputError(
            f"[policy] model: the logits of {name} are not its hidden states times its output head; "
            "such models cannot be trained here yet"
        )


def _can_be_flat(model: Any) -> bool:
    """Let the model use packed attention, if two examples in one row then come out as each does alone.

    Attention with a sliding window, a soft cap or sinks is more than packed attention computes; such models keep the
    implementation they came with, whose mask says where examples end.
    """
    plain = model.config._attn_implementation
    config = model.config.get_text_config()
    if "sliding_attention" in (getattr(config, "layer_types", None) or []):
        return False
    one_BT = torch.arange(_PROBE)[None]
    both_BT, positions_BT = torch.cat([one_BT, one_BT.flip(1)], 1), torch.cat([one_BT, one_BT], 1)
    boundaries = torch.tensor([0, _PROBE, 2 * _PROBE], dtype=torch.int32)
    with torch.no_grad():
        alone = [model.base_model(row, use_cache=False).last_hidden_state for row in both_BT.split(_PROBE, dim=1)]
        try:
            model.set_attn_implementation(packed_attention.register())
            packed_BTC = model.base_model(
                both_BT, position_ids=positions_BT, boundaries=boundaries, longest=_PROBE, use_cache=False
            ).last_hidden_state
        except (TypeError, ValueError):  # a model that knows no exchangeable attention
            packed_BTC = None
    alone_BTC = torch.cat(alone, dim=1)
    tolerance = 0.05 * alone_BTC.abs().max().item()
    if packed_BTC is not None and torch.allclose(packed_BTC, alone_BTC, rtol=0.05, atol=tolerance):
        return True
    model.set_attn_implementation(plain)
    return False


def size_of(model: Any) -> tuple[int, int, int]:
    """Parameters that tokens are multiplied with, layers, and the width of attention; for `training_flops`."""
    config = model.config.get_text_config()
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    if embedding is not head:
        num_parameters -= embedding.numel()
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return num_parameters, config.num_hidden_layers, config.num_attention_heads * head_width


def add_adapters(model: Any, lora: Lora) -> None:
    """Put LoRA adapters beside the linear layers, in place, and freeze everything else.

    Raises:
        InputError: peft is not installed, or a named module is not in the model.
    """
    peft = _peft("[train.lora]")
    targets: Any = lora.target_modules if lora.target_modules != ["all-linear"] else "all-linear"
    if targets == "all-linear":  # peft knows the output head of its own wrappers only; it is no place for an adapter
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
        raise InputError(f"[train.lora] target_modules: {str(error).splitlines()[0]}") from error
    dtype = next(model.parameters()).dtype
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
        parameter.data = parameter.data.to(dtype)  # peft makes its own in float32
    # with frozen embeddings, recomputed activations would have nothing to send a gradient to
    model.enable_input_require_grads()


def merge_adapters(weights: dict[str, Tensor], lora: Lora | None) -> dict[str, Tensor]:
    """The weights as the model has them without adapters: W + (α / r) B A for each that has one."""
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


def _merge_adapter(model: Any, folder: str) -> Any:
    """The policy sampled with this adapter, so its training starts from model and adapter in one."""
    return _peft("[policy] lora").PeftModel.from_pretrained(model, folder).merge_and_unload()


def _peft(key: str) -> Any:
    try:
        import peft
    except ImportError as error:
        raise InputError(f"{key}: needs peft; pip install peft") from error
    return peft
