"""A group that has lost too many workers begins again if they wrote something meanwhile, else it ends."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray.train

from ossft_ray.common.errors import JobError
from ossft_ray.common.storage import Folder
from ossft_ray.distributed import train_group
from ossft_ray.distributed.placement import Placement
from tests.stages.scripted import experiment


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

    monkeypatch.setattr(train_group, "TorchTrainer", Trainer)
    monkeypatch.setattr(train_group, "place", lambda resources: Placement(1, 0, 1, 1))
    monkeypatch.setattr(train_group, "Room", lambda *_: SimpleNamespace(poll=lambda count: None))
    settings, folder = experiment(str(tmp_path / "run")), Folder.at(str(tmp_path / "train"))
    train_group.run_group(
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
