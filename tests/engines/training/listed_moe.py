"""A tiny mixture-of-experts model whose experts are a list of modules, as in models with custom code."""

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, Qwen2MoeConfig, Qwen2MoeForCausalLM
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeMLP

SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "num_experts": 16,
    "num_experts_per_tok": 1, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip


class ListedMoeConfig(Qwen2MoeConfig):
    model_type = "listed_moe"


class ListedMoeBlock(torch.nn.Module):
    """Each token goes to its best expert; experts without a token are not called."""

    def __init__(self, config: ListedMoeConfig) -> None:
        super().__init__()
        self.gate = torch.nn.Linear(config.hidden_size, config.num_experts, bias=False)
        size = config.moe_intermediate_size
        self.experts = torch.nn.ModuleList(Qwen2MoeMLP(config, size) for _ in range(config.num_experts))

    def forward(self, hidden_BTC: Tensor) -> Tensor:
        hidden_NC = hidden_BTC.flatten(0, 1)
        weight_N, expert_N = self.gate(hidden_NC).softmax(-1).max(-1)
        output_NC = torch.zeros_like(hidden_NC)
        for number in expert_N.unique().tolist():
            tokens = (expert_N == number).nonzero()[:, 0]
            output_NC = output_NC.index_add(0, tokens, weight_N[tokens, None] * self.experts[number](hidden_NC[tokens]))
        return output_NC.view_as(hidden_BTC)


class ListedMoeForCausalLM(Qwen2MoeForCausalLM):
    config_class = ListedMoeConfig

    def __init__(self, config: ListedMoeConfig) -> None:
        super().__init__(config)
        for layer in self.model.layers:
            layer.mlp = ListedMoeBlock(config)
        self.post_init()


AutoConfig.register("listed_moe", ListedMoeConfig)
AutoModelForCausalLM.register(ListedMoeConfig, ListedMoeForCausalLM)
