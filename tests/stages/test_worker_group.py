"""A group that has lost too many workers begins again if they wrote something meanwhile, else it ends."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray.train
from scripted import experiment

from ossft_ray.errors import JobError
from ossft_ray.stages import worker_group
from ossft_ray.stages.placement import Placement
from ossft_ray.storage import Folder


def group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, attempts: list[int | None]) -> list[int]:
    """Run a group whose every attempt ends lost after writing so many parts, or with None well; what was written."""
    left, written = list(attempts), [0]

    class Trainer:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def fit(self) -> Any:
            parts = left.pop(0)
            if parts is None:
                return SimpleNamespace(return_value=None)
            written.append(written[-1] + parts)
            raise ray.train.TrainingFailedError("a node was lost")

    monkeypatch.setattr(worker_group, "TorchTrainer", Trainer)
    monkeypatch.setattr(worker_group, "place", lambda resources: Placement(1, 0, 1, 1))
    monkeypatch.setattr(worker_group, "Room", lambda *_: SimpleNamespace(poll=lambda count: None))
    settings, folder = experiment(str(tmp_path / "run")), Folder.at(str(tmp_path / "train"))
    worker_group.run_group(
        lambda config: None, {}, settings, folder, "workers", poll=lambda: None, written=lambda: written[-1]
    )
    return written


@pytest.mark.parametrize("attempts", [[None], [1, None], [3, 1, 1, 2, None]])
def test_it_goes_on_while_something_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, attempts: list[int | None]
) -> None:
    assert len(group(monkeypatch, tmp_path, attempts)) == len(attempts)


@pytest.mark.parametrize("attempts", [[0], [2, 0]])
def test_it_ends_when_nothing_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, attempts: list[int | None]) -> None:
    with pytest.raises(
        JobError, match=r"train: worker 0 failed: .*a node was lost.*goes on from the newest checkpoint"
    ):
        group(monkeypatch, tmp_path, [*attempts, None])
