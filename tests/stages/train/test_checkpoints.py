"""Checkpoints as folders: each counts once its last file is written, and only the newest stay."""

from pathlib import Path

import pytest
from pyarrow import fs

from ossft_ray.common.storage import Folder
from ossft_ray.run_folder.names import COMPLETE
from ossft_ray.stages.train.checkpoints import UNIVERSAL, Checkpoints, local_copy, node_copy


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


SHARDS = [f"state/bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in (0, 1, 10)]
SHARED = ["progress.json", "complete.json", "state/mp_rank_00_model_states.pt"]
CONVERTED = [f"{UNIVERSAL}/state/zero/layer/fp32.pt", f"{UNIVERSAL}/latest_universal"]


def test_workers_of_a_node_share_one_copy_of_what_they_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*SHARDS, *SHARED, *CONVERTED):
        (tmp_path / "step-000002" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "step-000002" / name).write_text(name)
    (tmp_path / "node").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "node"))
    checkpoint = Folder(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "step-000002")
    downloads: list[str] = []
    copy = fs.copy_files
    monkeypatch.setattr(
        fs, "copy_files", lambda source, *rest, **more: (downloads.append(source), copy(source, *rest, **more))
    )

    def found(folder: Path) -> set[str]:
        paths = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
        return {str(path) for path in paths if not path.name.startswith(".")}

    with node_copy(checkpoint, 0, False, "token") as first:
        assert found(first) == {SHARDS[0], *SHARED} and first.stat().st_mode & 0o77 == 0
        with node_copy(checkpoint, 1, False, "token") as second:
            assert second == first and found(first) == {*SHARDS[:2], *SHARED}
        assert found(first), "the first worker still reads"
        with node_copy(checkpoint, 1, True, "token"):
            assert found(first) == {*SHARDS[:2], *SHARED, *CONVERTED}
    assert not list((tmp_path / "node").iterdir())
    assert len(downloads) == len(set(downloads)) == len(SHARDS[:2] + SHARED + CONVERTED)
