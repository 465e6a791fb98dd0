"""The policy as one module from token ids to its loss, and how it is loaded."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ossft_ray.common.errors import InputError
from ossft_ray.config import Policy, Train
from ossft_ray.engines import packed_attention
from ossft_ray.engines.adapters import add_adapters, merge_policy_adapter
from ossft_ray.engines.tied_embedding import TiedEmbedding
from ossft_ray.engines.token_loss import LossHead, LossInputs, TokenLosses
from ossft_ray.engines.training.batches import MicroBatchTensors
from ossft_ray.engines.training.deepspeed_engine import gathered, gathered_forward, sharded_loading
from ossft_ray.engines.training.memory import ModelCounts
from ossft_ray.method.coefficients import Loss
from ossft_ray.policy.model_location import model_path

_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
_PROBE_TOKENS = 4  # of each of two examples


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

    def forward(self, tensors: MicroBatchTensors, inputs: LossInputs) -> TokenLosses:
        """Σ c_t · (-log p_t) over the micro-batch's response tokens."""
        outputs = self.model.base_model(
            tensors.input_ids_BT, position_ids=tensors.position_ids_BT, use_cache=False, **_sequence_lengths(tensors)
        )
        hidden_NC = outputs.last_hidden_state.flatten(0, 1).index_select(0, tensors.predictor_index_N)
        head: LossHead = self.model.get_output_embeddings()
        return head(hidden_NC, tensors.targets_N, inputs)


def _sequence_lengths(tensors: MicroBatchTensors) -> dict[str, Any]:
    """What packed attention needs. Without it, and without a mask, transformers goes by the position ids."""
    if tensors.cu_seqlens is None:
        return {}
    return {"cu_seqlens": tensors.cu_seqlens, "max_seqlen": tensors.max_seqlen}


def load_model(policy: Policy, settings: Train) -> tuple[Any, bool]:
    """The policy as a transformers model in the training dtype; and whether all examples go into one packed row.

    In ZeRO stage 3 its weights are sharded, and this is a collective call.

    Raises:
        InputError: its logits are not a plain product with its output head (a bias, a scale, a soft cap), for which the
            chunked loss would be silently wrong.
    """
    from transformers import AutoModelForCausalLM

    sharded = settings.zero_stage == 3
    with sharded_loading(settings, _fp32_buffers(policy, settings)) if sharded else nullcontext():
        model = AutoModelForCausalLM.from_pretrained(
            model_path(policy.model, weights=True),
            revision=policy.revision,
            dtype=_DTYPES[settings.precision],
            trust_remote_code=policy.trust_remote_code,
            use_safetensors=True,  # others are pickles
        )
    if policy.lora is not None:  # the policy sampled with this adapter, so training starts from the two merged
        model = merge_policy_adapter(model, policy.lora)
    with gathered_forward(model), torch.no_grad():
        _check_head(model, policy.model)
        packed = settings.packing and _use_packed_attention(model)
    if settings.lora is not None:
        add_adapters(model, settings.lora)
    if settings.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if _compiles(settings):
        _compile_layers(model, is_asked_for=settings.compile is True)
    return model, packed


def _compiles(settings: Train) -> bool:
    if settings.compile != "auto":
        return settings.compile
    return torch.cuda.is_available() and settings.precision == "bf16" and settings.engine_stage < 3


def _compile_layers(model: Any, is_asked_for: bool) -> None:
    """Compile each decoder layer; all share one compiled program, for passes of any number of tokens."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    if not is_asked_for:
        torch._dynamo.config.suppress_errors = True  # a layer that cannot be compiled runs as it is
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.compile(dynamic=True)


def model_without_weights(policy: Policy, settings: Train) -> Any:
    """The policy as `load_model` makes it, on the meta device."""
    from transformers import AutoConfig, AutoModelForCausalLM

    trusted = {"trust_remote_code": policy.trust_remote_code}
    config = AutoConfig.from_pretrained(model_path(policy.model), revision=policy.revision, **trusted)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=_DTYPES[settings.precision], **trusted)


def count_parameters(policy: Policy, settings: Train) -> ModelCounts:
    """The sizes of the policy as it will be trained, from its config alone.

    Raises:
        InputError: as `add_adapters`.
    """
    model = model_without_weights(policy, settings)
    head, config = model.get_output_embeddings(), model.config.get_text_config()
    linear = [each for each in model.modules() if isinstance(each, torch.nn.Linear) and each is not head]
    width = sum(layer.in_features + layer.out_features for layer in linear)
    largest = max(sum(each.numel() for each in module.parameters(recurse=False)) for module in model.modules())
    if settings.lora is not None:
        add_adapters(model, settings.lora)
    parameters = list(model.parameters())
    trained = sum(each.numel() for each in parameters if each.requires_grad)
    sizes = config.num_hidden_layers, config.hidden_size, config.vocab_size
    return ModelCounts(sum(each.numel() for each in parameters), trained, largest, width, *sizes)


def _fp32_buffers(policy: Policy, settings: Train) -> list[str]:
    """Names of the buffers that transformers keeps in float32, such as the frequencies of rotary embeddings."""
    model = model_without_weights(policy, settings)
    buffers = {name.rpartition(".")[2] for name, buffer in model.named_buffers() if buffer.dtype == torch.float32}
    return sorted(buffers.union(model._keep_in_fp32_modules_strict or ()))


def _check_head(model: Any, name: str) -> None:
    """Raise InputError if the logits are more than the product of the hidden states with the output head."""
    probe_BT = torch.arange(_PROBE_TOKENS, device=model.device)[None]
    hidden_BTC = model.base_model(probe_BT, use_cache=False).last_hidden_state
    logits_BTV = model(probe_BT, use_cache=False).logits
    weight_VC = model.get_output_embeddings().weight
    with gathered([weight_VC]):
        plain_BTV = hidden_BTC @ weight_VC.T
    if not _is_close(plain_BTV, logits_BTV):
        raise InputError(
            f"[policy] model: the logits of {name} are not its hidden states times its output head, which training "
            "here needs; choose a model without logit bias, scale or soft cap"
        )


def _use_packed_attention(model: Any) -> bool:
    """Switch the model to packed attention, if two examples in one row then give the same as each alone.

    Packed attention supports no sliding windows, soft caps or sinks. Models that have them keep their own
    implementation, whose mask separates the examples.
    """
    plain = model.config._attn_implementation
    config = model.config.get_text_config()
    if "sliding_attention" in (getattr(config, "layer_types", None) or []):
        return False
    one_BT = torch.arange(_PROBE_TOKENS, device=model.device)[None]
    both_BT, positions_BT = torch.cat([one_BT, one_BT.flip(1)], 1), torch.cat([one_BT, one_BT], 1)
    cu_seqlens = torch.tensor([0, _PROBE_TOKENS, 2 * _PROBE_TOKENS], dtype=torch.int32, device=model.device)
    alone = [model.base_model(row, use_cache=False).last_hidden_state for row in both_BT.split(_PROBE_TOKENS, 1)]
    try:
        model.set_attn_implementation(packed_attention.register())
        packed_BTC = model.base_model(
            both_BT, position_ids=positions_BT, cu_seqlens=cu_seqlens, max_seqlen=_PROBE_TOKENS, use_cache=False
        ).last_hidden_state
    except (TypeError, ValueError):  # a model whose attention cannot be replaced
        packed_BTC = None
    if packed_BTC is not None and _is_close(packed_BTC, torch.cat(alone, dim=1)):
        return True
    model.set_attn_implementation(plain)
    return False


def _is_close(found: Tensor, expected: Tensor) -> bool:
    """Within rounding of half precision, relative to the largest value."""
    return torch.allclose(found, expected, rtol=0.05, atol=0.05 * expected.abs().max().item())
