"""The trackers, each read back with its own library, offline."""

import struct
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event

from ossft_ray.common.errors import InputError
from ossft_ray.common.storage import Folder
from ossft_ray.config import Experiment, resolve
from ossft_ray.stages.train.tracking import Tracking

STEPS = [{"step": step, "loss": 1.0 / step, "self/loss": 0.5 / step, "note": "no figure"} for step in (1, 2, 3)]


def experiment(output: Path, trackers: list[str]) -> Experiment:
    return resolve(
        {
            "run": {"output": str(output)},
            "policy": {"model": "playground"},
            "data": {"path": "unused.jsonl"},
            "train": {"tracking": trackers},
        }
    )


def track(output: Path, trackers: list[str], steps: list[dict[str, Any]] = STEPS, after_step: int = 0) -> None:
    tracking = Tracking(experiment(output, trackers), Folder.at(str(output)) / "train", after_step)
    for metrics in steps:
        tracking.log(metrics)
    tracking.close()


def events(folder: Path) -> list[Event]:
    """The events of TensorBoard's files, whose records are a length, its checksum, an event, its checksum."""
    found = []
    for file in sorted(folder.glob("events.*")):
        content = file.read_bytes()
        while content:
            (size,) = struct.unpack("<Q", content[:8])
            found.append(Event.FromString(content[12 : 12 + size]))
            content = content[12 + size + 4 :]
    return found


def test_tensorboard_has_every_figure_at_its_step(tmp_path: Path) -> None:
    track(tmp_path, [])
    time.sleep(1.1)  # its files are named by the second
    track(tmp_path, [], STEPS[1:], after_step=1)  # a resumed run does steps 2 and 3 again
    scalars = [
        (event.step, value.tag, value.simple_value)
        for event in events(tmp_path / "train/tensorboard")
        for value in event.summary.value
    ]
    assert {tag for _, tag, _ in scalars} == {"loss", "self/loss"}
    assert [step for step, tag, _ in scalars if tag == "loss"] == [1, 2, 3, 2, 3]
    assert {value for step, tag, value in scalars if (step, tag) == (2, "loss")} == {0.5}
    starts = [event.step for event in events(tmp_path / "train/tensorboard") if event.HasField("session_log")]
    assert starts == [2]  # from this step on TensorBoard discards what the killed run wrote


def test_mlflow_has_every_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlruns")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    import mlflow

    mlflow.set_tracking_uri(f"file:{tmp_path}/mlruns")
    track(tmp_path, ["mlflow"])
    assert mlflow.active_run() is None
    run = mlflow.last_active_run()
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "self/loss")
    assert [(entry.step, entry.value) for entry in history] == [(step["step"], step["self/loss"]) for step in STEPS]
    assert mlflow.get_run(run.info.run_id).data.params["train.loss"] == "dft"


@pytest.mark.thorough
def test_wandb_has_every_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    import wandb

    track(tmp_path, ["wandb"])
    assert wandb.run is None
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    expected = [str(step["self/loss"]).encode() for step in STEPS]  # protocol buffers hold values as JSON text
    deadline = time.monotonic() + 30  # W&B's process writes the file some time after it has confirmed the end
    while not all(value in file.read_bytes() for value in expected) and time.monotonic() < deadline:
        time.sleep(0.2)
    content = file.read_bytes()
    assert [value for value in expected if value not in content] == []


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=rf"\[train\] tracking: {name} is not installed; pip install {name}"):
        track(tmp_path, [name])
