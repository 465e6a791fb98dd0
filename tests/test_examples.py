"""The programs in examples/ run, and their losses are those of TRL and of the loss table."""

import importlib.util
import re
import runpy
import shlex
import sys
from collections.abc import Callable
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
    losses = load("plain_loop").train(str(tmp_path / "rewrite"), "playground", "sft", 3)
    assert losses[0] > losses[-1] > 0 and len(rows) == 8
    weighted = load("plain_loop").train(str(tmp_path / "rewrite"), "playground", "dft", 1)
    assert 0 < weighted[0] < losses[0] / 2
    anchored = load("plain_loop").train(str(tmp_path / "rewrite"), "playground", "iw_sft", 1)
    assert anchored[0] == pytest.approx(losses[0], rel=1e-5), "at first the reference is the model itself"


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with everything that lies next to the parts of `rewrite/`."""
    run = tmp_path_factory.mktemp("run")
    write_examples(str(run), 4)
    for name in ("problems.json", "unfinished/part-00000.0.jsonl", "sessions/1.jsonl", "problems/part-00000.parquet"):
        (run / "rewrite" / name).parent.mkdir(exist_ok=True)
        (run / "rewrite" / name).write_text("{}\n")
    return run


@pytest.fixture
def run_example(finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run an example's command line, as its docstring gives it, on the finished run."""
    monkeypatch.chdir(finished_run)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")

    def run(example: str, *options: str, folder: str = "rewrite") -> None:
        lines = (load(example).__doc__ or "").splitlines()
        python, script, given, *_ = shlex.split(next(line for line in lines if "python examples/" in line))
        assert (python, script, given) == ("python", f"examples/{example}.py", "runs/demo/rewrite")
        monkeypatch.setattr(sys, "argv", [script, str(finished_run / folder), *options])
        runpy.run_path(str(EXAMPLES.parent / script), run_name="__main__")

    return run


@pytest.mark.parametrize("example", ["plain_loop", "trl_trainer"])
def test_an_example_runs_as_its_docstring_says(
    run_example: Callable[..., None], example: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run_example(example, "--steps", "1")
    printed = capsys.readouterr().out
    assert re.search(r"step 1: loss 0\.\d+|\[0\.\d+\]", printed), printed


@pytest.mark.parametrize(
    "example, loss, folder, words",
    [
        ("plain_loop", "nope", "rewrite", "no loss 'nope'; losses: sft, dft, iw_sft"),
        ("plain_loop", "is", "rewrite", "the loss needs behavior_logprob_N; pass LossInputs with them"),
        ("plain_loop", "dft", ".", "no part-*.parquet; give the rewrite folder of a run"),
        ("trl_trainer", "nope", "rewrite", "no loss 'nope'"),
        ("trl_trainer", "iw_sft", "rewrite", "the loss needs reference_logprob_N and response_N; pass LossInputs"),
    ],
)
def test_bad_arguments_get_one_line(
    run_example: Callable[..., None],
    example: str,
    loss: str,
    folder: str,
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as leaving:
        run_example(example, "--loss", loss, folder=folder)
    assert leaving.value.code == 2
    assert words in capsys.readouterr().err.splitlines()[-1]


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
