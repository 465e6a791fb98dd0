"""Loading in ZeRO stage 3: each worker holds its share of the weights from the start, and trains as in other stages."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)

from ossft_ray.common.errors import InputError
from ossft_ray.common.playground_paths import POLICY_FOLDER
from ossft_ray.config import Lora, Policy, Train
from ossft_ray.engines.training.batches import Examples, TokenizedExample
from ossft_ray.engines.training.deepspeed_engine import gather_weights
from ossft_ray.engines.training.flops import ModelSize
from ossft_ray.engines.training.policy_model import load_model
from ossft_ray.engines.training.saving import export_model
from ossft_ray.engines.training.trainer import Trainer
from ossft_ray.policy.chat import load_chat
from tests.engines.process_group import join_group, run_in_group
from tests.engines.training.listed_moe import SIZES, ListedMoeConfig, ListedMoeForCausalLM

pytestmark = pytest.mark.engine

SETTINGS = Train(precision="fp32", zero_stage=3, max_length=64, global_batch_size=4, loss="dft", learning_rate=1e-3)


def _load(rank: int, folder: Path) -> None:
    join_group(rank, 2, folder)
    model, packed = load_model(Policy(model="playground"), SETTINGS)
    assert packed and model.config._attn_implementation == "ossft_packed"
    for parameter in model.parameters():
        assert parameter.numel() == 0 and parameter.ds_tensor.numel() <= (parameter.ds_numel + 1) // 2
    assert ModelSize.of(model) == ModelSize.of(load_model(Policy(model="playground"), Train(zero_stage=2))[0])
    half = {"precision": "bf16"}
    frequencies, plain = (
        dict(
            load_model(Policy(model="playground"), SETTINGS.model_copy(update=half | {"zero_stage": stage}))[
                0
            ].named_buffers()
        )
        for stage in (3, 2)
    )
    torch.testing.assert_close(frequencies, plain, rtol=0, atol=0)  # DeepSpeed would round them to bf16
    policy = Policy(model="playground", lora=str(folder / "adapter"))
    model, _ = load_model(policy, SETTINGS.model_copy(update={"lora": Lora(rank=2)}))
    weights = {name.replace(".base_layer", ""): tensor for name, tensor in gather_weights(model, rank).items()}
    if rank == 0:
        merged, _ = load_model(policy, Train(precision="fp32"))
        for name, parameter in merged.named_parameters():
            torch.testing.assert_close(weights[name], parameter.detach())
    with pytest.raises(InputError, match="are not its hidden states times its output head"):
        load_model(Policy(model=str(folder / "capped")), SETTINGS)
    torch.distributed.destroy_process_group()


def test_no_worker_holds_the_whole_model(tmp_path: Path) -> None:
    """And the checks of the model and the merging of an adapter work on sharded weights."""
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(POLICY_FOLDER), config).save_pretrained(
        tmp_path / "adapter"
    )
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    capped = Gemma2Config(vocab_size=40, **small, num_key_value_heads=1, head_dim=8, final_logit_softcapping=0.01)
    Gemma2ForCausalLM(capped).save_pretrained(tmp_path / "capped")
    run_in_group(_load, 2, tmp_path)


def make_examples() -> Examples:
    """Short ones, so that workers send their tokens to different experts."""
    rng = np.random.default_rng(0)
    rows = [rng.integers(3, 40, 5).tolist() for _ in range(16)]
    return Examples.build([TokenizedExample(f"p-{i}", row[:2], row[2:], "self") for i, row in enumerate(rows)])


def _train(rank: int, folder: Path, name: str) -> None:
    join_group(rank, 2, folder)
    policy, losses = Policy(model=str(folder / name)), []
    for stage in (0, 3):
        settings = SETTINGS.model_copy(update={"zero_stage": stage, "activation_checkpointing": stage == 3})
        trainer = Trainer(policy, settings, 0, make_examples())
        losses.append([step["loss"] for step in trainer.steps()])
        export_model(trainer, folder / f"stage-{stage}", load_chat(Policy(model="playground")))
    if name == "listed":
        with pytest.raises(InputError, match="only zero_stage 3 trains with several workers"):
            Trainer(policy, SETTINGS.model_copy(update={"zero_stage": 2}), 0, make_examples())
    if rank == 0:
        (folder / "losses.json").write_text(json.dumps(losses))
    torch.distributed.destroy_process_group()


@pytest.mark.timeout(300)  # in case workers wait for each other
@pytest.mark.parametrize(
    "name, model, config",
    [("fused", Qwen2MoeForCausalLM, Qwen2MoeConfig), ("listed", ListedMoeForCausalLM, ListedMoeConfig)],
)
def test_a_mixture_of_experts_trains_as_in_other_stages(name: str, model: Any, config: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    vocab_size = len(load_chat(Policy(model="playground")).tokenizer)
    model(config(vocab_size=vocab_size, **SIZES)).save_pretrained(tmp_path / name)
    run_in_group(_train, 2, tmp_path, name)
    plain, sharded = json.loads((tmp_path / "losses.json").read_text())
    assert len(plain) == 4 and sharded == pytest.approx(plain, rel=1e-4)
    folders = [tmp_path / f"stage-{stage}" for stage in (0, 3)]
    weights, found = (AutoModelForCausalLM.from_pretrained(each, dtype=torch.float32).state_dict() for each in folders)
    for key, weight in weights.items():
        torch.testing.assert_close(found[key], weight, rtol=1e-3, atol=1e-4)
