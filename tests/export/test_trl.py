"""TRL trains on the run's own Parquet files and on their export as they are: two steps of SFTTrainer on the CPU."""

import math
from pathlib import Path
from typing import Any

import datasets
import pytest
import trl

from ossft_ray.common.playground_paths import POLICY_FOLDER
from ossft_ray.common.schema import EXAMPLE_SCHEMA
from ossft_ray.export import export
from ossft_ray.policy.chat import load_chat
from tests.export.runs import settings
from tests.stages.rows import write_examples

pytestmark = pytest.mark.engine

NUM_ROWS = 6


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("trl") / "run"
    return folder, write_examples(str(folder), NUM_ROWS)


def load(run: Path, tmp_path: Path, what: str) -> datasets.Dataset:
    cache = str(tmp_path / "cache")
    if what == "the run's own":
        files = str(run / "rewrite" / "part-*.parquet")
        return datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=cache)
    export(str(run), "trl", str(tmp_path / "out"))
    return datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=cache)


@pytest.mark.parametrize("what", ["the run's own", "the export"])
def test_examples_train_as_they_are(run: tuple[Path, list[dict[str, Any]]], tmp_path: Path, what: str) -> None:
    folder, rows = run
    examples = load(folder, tmp_path, what)
    if what == "the run's own":
        assert set(EXAMPLE_SCHEMA.names) <= set(examples.column_names)
    trainer = trl.SFTTrainer(
        model=str(POLICY_FOLDER),
        args=trl.SFTConfig(
            output_dir=str(tmp_path / "trained"),
            max_steps=2,
            per_device_train_batch_size=2,
            logging_steps=1,
            use_cpu=True,
            bf16=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=examples,
    )
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert len(losses) == 2
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)

    chat = load_chat(settings("anywhere").policy)
    trained = trainer.train_dataset
    assert len(trained) == NUM_ROWS
    for row, example in zip(rows, trained, strict=True):
        prompt = chat.render(row["prompt"])
        labels = example["labels"]
        assert example["input_ids"][: len(prompt)] == prompt
        assert labels[: len(prompt)] == [-100] * len(prompt), "no loss on the prompt"
        # the loss covers the whole response and its end of turn; the template writes a newline after that
        assert labels[len(prompt) :][: len(row["response_token_ids"])] == row["response_token_ids"]
        assert chat.decode(labels[len(prompt) + len(row["response_token_ids"]) :]).strip() == ""
