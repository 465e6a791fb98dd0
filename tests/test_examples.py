"""The programs in examples/ run, and their losses are those of TRL and of the loss table."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from ossft_ray.common.playground_paths import POLICY_FOLDER
from tests.stages.rows import write_examples

pytestmark = pytest.mark.engine

EXAMPLES = Path(__file__).parents[1] / "examples"
SETTINGS = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "use_cpu": True, "seed": 3}


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_plain_loop_learns(tmp_path: Path) -> None:
    rows = write_examples(str(tmp_path), 8)
    losses = load("plain_loop").train(str(tmp_path / "rewrite" / "part-00000.parquet"), "playground", "sft", 3)
    assert losses[0] > losses[-1] > 0 and len(rows) == 8
    weighted = load("plain_loop").train(str(tmp_path / "rewrite" / "part-00000.parquet"), "playground", "dft", 1)
    assert 0 < weighted[0] < losses[0] / 2


def test_trl_with_our_loss_learns_as_with_its_own(tmp_path: Path) -> None:
    """Accumulated micro-batches of uneven lengths, padded: TRL's DFT and ours through TRL give the same losses."""
    from datasets import Dataset

    rows = write_examples(str(tmp_path), 12)
    ours = load("trl_trainer").train(
        str(tmp_path / "rewrite"), "playground", "dft", 3, str(tmp_path / "ours"), bf16=False, **SETTINGS
    )
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(POLICY_FOLDER, dtype=torch.float32),
        args=SFTConfig(
            output_dir=str(tmp_path / "theirs"), max_steps=3, completion_only_loss=True, logging_steps=1, bf16=False,
            report_to=[], save_strategy="no", loss_type="dft", **SETTINGS,
        ),
        train_dataset=Dataset.from_list([{name: row[name] for name in ("prompt", "completion")} for row in rows]),
        processing_class=AutoTokenizer.from_pretrained(POLICY_FOLDER),
    )  # fmt: skip
    trainer.train()
    theirs = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert ours == pytest.approx(theirs, rel=1e-3)
