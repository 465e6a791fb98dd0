"""Loading the policy for training, with the adapter that it sampled with."""

from pathlib import Path

import peft
import torch
from transformers import AutoModelForCausalLM

from ossft_ray.common.playground_paths import POLICY_FOLDER
from ossft_ray.config import Policy, Train
from ossft_ray.engines.training.policy_model import load_model


def test_the_policys_adapter_is_merged_before_training(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_pretrained(POLICY_FOLDER, dtype=torch.float32)
    adapted = peft.get_peft_model(
        plain, peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    )
    adapted.save_pretrained(tmp_path)
    ids_BT = torch.arange(3, 40)[None]
    expected_BTV = adapted(ids_BT).logits.detach()
    model, _ = load_model(Policy(model="playground", lora=str(tmp_path)), Train(precision="fp32"))
    torch.testing.assert_close(model(ids_BT).logits, expected_BTV, rtol=1e-4, atol=1e-4)
    with adapted.disable_adapter():
        assert (adapted(ids_BT).logits - expected_BTV).abs().max() > 0.1
    assert not [name for name, _ in model.named_parameters() if "lora" in name]
