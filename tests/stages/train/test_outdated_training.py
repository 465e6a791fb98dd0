"""Training on examples that have changed since: refused with the fix, repeated on request."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from ossft_ray.common.errors import InputError
from ossft_ray.common.storage import Folder
from ossft_ray.config import Experiment, resolve
from ossft_ray.run_folder.stage_folder import finish_stage
from ossft_ray.stages.train import stage as train_stage
from ossft_ray.stages.train.stage import train
from tests.stages.rows import write_examples

STEP = {"step": 1, "num_steps": 1, "loss": 0.5, "cross_entropy": 1.5, "seconds": 1.0}


def experiment(output: Path, **settings: Any) -> Experiment:
    sections = {"run": {"output": str(output)}, "policy": {"model": "playground"}, "data": {"path": "unused.jsonl"}}
    return resolve({**sections, "train": settings})


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Training without Ray and workers; the folders that it trained into."""
    found: list[str] = []

    def fit(experiment: Experiment, folder: Folder, *others: Any) -> None:
        found.append(folder.path)
        folder.write_bytes("metrics.jsonl", (str(STEP).replace("'", '"') + "\n").encode())

    monkeypatch.setattr(train_stage, "_fit", fit)
    monkeypatch.setattr(train_stage, "start_ray", lambda *arguments: None)
    return found


def test_outdated_training_is_refused_or_done_again(tmp_path: Path, fits: list[str]) -> None:
    settings = experiment(tmp_path)
    write_examples(str(tmp_path), 8)
    train(settings)
    finish_stage(Folder.at(str(tmp_path)) / "rewrite", {"rows": "corrected"}, {"problems": 8})
    with pytest.raises(InputError) as refusal:
        train(settings)
    assert str(refusal.value) == (
        f"{tmp_path}/train was made with different settings: the examples have changed since. Use another [run] "
        f"output with train.examples={tmp_path}/rewrite, or --start-over to redo it."
    )
    hearing = Mock(hears_announcements=True)
    train(settings, hearing, redo_outdated=True)
    hearing.assert_any_call({"note": "train: the examples have changed since; training starts again"})
    assert len(fits) == 2
    train(settings, redo_outdated=True)
    assert len(fits) == 2, "nothing is outdated any more"


def test_redo_outdated_keeps_training_with_other_settings(tmp_path: Path, fits: list[str]) -> None:
    write_examples(str(tmp_path), 8)
    train(experiment(tmp_path))
    with pytest.raises(InputError, match=r'train\.loss was "dft", is now "sft"'):
        train(experiment(tmp_path, loss="sft"), redo_outdated=True)


@pytest.mark.parametrize("redo_outdated", [False, True])
def test_start_over_needs_no_readable_record(tmp_path: Path, fits: list[str], redo_outdated: bool) -> None:
    write_examples(str(tmp_path), 8)
    train(experiment(tmp_path))
    (tmp_path / "train" / "inputs.json").write_text("{")
    with pytest.raises(InputError, match=r"inputs\.json: cannot be read: .*; pass --start-over"):
        train(experiment(tmp_path))
    train(experiment(tmp_path), start_over=True, redo_outdated=redo_outdated)
    assert len(fits) == 2
