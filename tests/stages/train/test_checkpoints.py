"""Checkpoints as folders: each counts once its last file is written, and only the newest stay."""

from pathlib import Path

import pytest

from ossft_ray.common.storage import Folder
from ossft_ray.run_folder.names import COMPLETE
from ossft_ray.stages.train.checkpoints import Checkpoints, local_copy


def write(store: Checkpoints, step: int, barrier=lambda: None) -> None:
    store.write(step, 0, lambda folder: (folder / "part").write_text(str(step)), barrier)


@pytest.fixture
def store(tmp_path: Path) -> Checkpoints:
    return Checkpoints(Folder.at(str(tmp_path / "checkpoints")))


def names(store: Checkpoints) -> list[str]:
    return sorted(path.name for path in Path(store.folder.path).iterdir())


def test_an_empty_folder_has_no_checkpoint(store: Checkpoints) -> None:
    assert store.newest() is None
    store.prune()


def test_the_two_newest_stay(store: Checkpoints) -> None:
    for step in (2, 4, 9, 10):
        write(store, step)
    assert names(store) == ["step-000009", "step-000010"]
    newest = store.newest()
    assert newest is not None
    with local_copy(newest) as folder:
        assert (folder / "part").read_text() == "10"


@pytest.mark.parametrize("dies_at", [1, 2])  # before any part, and after the parts
def test_a_half_written_checkpoint_is_never_read_and_is_removed(store: Checkpoints, dies_at: int) -> None:
    write(store, 2)
    barriers = iter(range(1, 3))

    def dying() -> None:
        if next(barriers) == dies_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(store, 4, dying)
    Path(store.folder.path, "step-000006").mkdir()
    newest = store.newest()
    assert newest is not None and newest.path.endswith("step-000002")
    store.prune()
    assert names(store) == ["step-000002"]


def test_a_half_written_checkpoint_is_written_again(store: Checkpoints) -> None:
    Path(store.folder.path, "step-000002").mkdir(parents=True)
    Path(store.folder.path, "step-000002", "stale").write_text("left by a run that died")
    write(store, 2)
    assert sorted(path.name for path in Path(store.folder.path, "step-000002").iterdir()) == [COMPLETE, "part"]


def test_only_the_first_worker_marks_a_checkpoint_as_complete(store: Checkpoints) -> None:
    store.write(3, 1, lambda folder: (folder / "part-1").write_text("mine"), lambda: None)
    assert store.newest() is None
