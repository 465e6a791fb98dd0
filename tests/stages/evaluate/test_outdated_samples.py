"""Samples of a model that was trained again."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from ossft_ray.common.errors import InputError
from ossft_ray.common.playground_paths import POLICY_FOLDER
from ossft_ray.common.storage import Folder
from ossft_ray.config import resolve
from ossft_ray.run_folder.resolved_run import Run
from ossft_ray.stages.evaluate.sampling import ModelSampling, sample_models


def complete(model: Path, name: str, folder: Folder, notes: list[dict[str, Any]], start_over: bool = False) -> None:
    settings = {"run": {"output": "unused"}, "policy": {"model": str(model)}, "data": {"path": "unused.jsonl"}}
    run = Run(resolve({**settings, "evaluate": {"cache": ""}}))
    sample_models([ModelSampling(name, run, {}, folder, notes.append)], start_over, verbose=False)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    shutil.copytree(POLICY_FOLDER, tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("name, is_redone", [("trained", True), ("other", False)])
def test_samples_of_a_trained_model_are_drawn_again(tmp_path: Path, model: Path, name: str, is_redone: bool) -> None:
    folder = Folder.at(str(tmp_path)) / name
    notes: list[dict[str, Any]] = []
    complete(model, name, folder, notes)
    (folder / "aime24").write_bytes("part-00000.parquet", b"")
    (model / "generation_config.json").write_text("{}")
    if not is_redone:
        with pytest.raises(InputError, match=r"the model has changed since\. Use another"):
            complete(model, name, folder, notes)
        return
    complete(model, name, folder, notes)
    assert {"model": "trained", "note": "trained: the model has changed since; it is sampled again"} in notes
    assert not (folder / "aime24").exists()


def test_start_over_needs_no_readable_record(tmp_path: Path, model: Path) -> None:
    folder = Folder.at(str(tmp_path)) / "trained"
    complete(model, "trained", folder, [])
    folder.write_bytes("inputs.json", b"{")
    with pytest.raises(InputError, match=r"inputs\.json: cannot be read: .*; pass --start-over"):
        complete(model, "trained", folder, [])
    complete(model, "trained", folder, [], start_over=True)
    assert folder.read_json("inputs.json")
