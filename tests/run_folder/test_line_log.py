"""Logs of JSON lines: durable on a disk, rewritten as a whole in an object store, cut when training resumes."""

import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from ossft_ray.common.storage import Folder
from ossft_ray.run_folder.line_log import LineLog, read_lines
from ossft_ray.run_folder.metrics_log import MetricsReader, continue_metrics, read_metrics

STEPS = [{"step": step, "loss": 1 / step} for step in range(1, 6)]


@pytest.fixture
def disk(tmp_path: Path) -> Folder:
    return Folder.at(str(tmp_path))


@pytest.fixture
def store() -> Folder:
    return Folder(fs._MockFileSystem(current_time=datetime.now(UTC)), "bucket/run")


def test_a_line_is_on_disk_once_it_is_appended(disk: Folder) -> None:
    log = LineLog(disk, "log.jsonl")
    for number in range(3):
        log.append({"number": number})
        assert read_lines(disk, "log.jsonl")[-1] == {"number": number}


def test_a_torn_line_is_ignored(disk: Folder) -> None:
    disk.write_bytes("log.jsonl", b'{"number": 0}\n{"numb')
    assert read_lines(disk, "log.jsonl") == [{"number": 0}]


def test_a_missing_log_is_empty(disk: Folder, store: Folder) -> None:
    assert read_lines(disk, "log.jsonl") == read_lines(store, "log.jsonl") == []


def test_a_log_does_not_recreate_a_deleted_run(disk: Folder) -> None:
    with pytest.raises(FileNotFoundError):
        LineLog(disk / "deleted" / "sessions", "log.jsonl")


def test_an_object_store_gets_the_whole_file_on_demand(store: Folder) -> None:
    log = LineLog(store, "log.jsonl")
    log.append({"number": 0})
    assert not store.exists("log.jsonl")
    log.append({"number": 1}, flush=True)
    assert read_lines(store, "log.jsonl") == [{"number": 0}, {"number": 1}]


def test_an_object_store_gets_the_file_in_the_background(store: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, may_end, write = threading.Event(), threading.Event(), Folder.write_bytes

    def write_slowly(folder: Folder, name: str, content: bytes) -> None:
        begun.set()
        assert may_end.wait(10)
        write(folder, name, content)

    monkeypatch.setattr(Folder, "write_bytes", write_slowly)
    log = LineLog(store, "log.jsonl")
    now = time.monotonic()
    for number in range(3):
        monkeypatch.setattr(time, "monotonic", lambda number=number: now + 21.0 * number)
        log.append({"number": number})  # the second starts an upload, which has not ended when the third comes
    assert begun.wait(10)
    assert not store.exists("log.jsonl")
    may_end.set()
    log.close()
    assert read_lines(store, "log.jsonl") == [{"number": 0}, {"number": 1}, {"number": 2}]


def test_an_upload_that_fails_is_not_silent(store: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no permission")

    log = LineLog(store, "log.jsonl")
    monkeypatch.setattr(Folder, "write_bytes", refuse)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 21.0)
    log.append({"number": 0})
    with pytest.raises(OSError, match="no permission"):
        log.close()


@pytest.mark.parametrize("keep", [True, False])
def test_closing_writes_what_an_object_store_lacks(store: Folder, keep: bool) -> None:
    log = LineLog(store, "log.jsonl")
    log.append({"number": 0})
    log.close(keep)
    assert store.exists("log.jsonl") == keep


@pytest.mark.parametrize("place", ["disk", "store"])
def test_resumed_training_repeats_the_steps_after_its_checkpoint(place: str, request: pytest.FixtureRequest) -> None:
    folder: Folder = request.getfixturevalue(place)
    log = continue_metrics(folder, after_step=0)
    for step in STEPS:
        log.append(step, flush=True)
    reader = MetricsReader(folder)
    log = continue_metrics(folder, after_step=3)
    assert read_metrics(folder) == STEPS[:3]
    assert steps_of(reader) == [1, 2, 3]
    repeated: list[dict[str, Any]] = [{"step": step, "loss": 0.0} for step in (4, 5, 6)]
    for step in repeated:
        log.append(step, flush=True)
    assert read_metrics(folder) == STEPS[:3] + repeated
    assert steps_of(reader) == [4, 5, 6]


def test_the_reader_follows_each_step_once(disk: Folder) -> None:
    reader, log = MetricsReader(disk), continue_metrics(disk, after_step=0)
    assert steps_of(reader) == []
    log.append(STEPS[0])
    log.append(STEPS[1])
    assert steps_of(reader) == [1, 2]
    log = continue_metrics(disk, after_step=1)  # a worker was restarted
    assert steps_of(reader) == []
    log.append(STEPS[1])
    log.append(STEPS[2])
    assert steps_of(reader) == [3]


def steps_of(reader: MetricsReader) -> list[int]:
    return [metrics["step"] for metrics in reader.new_lines()]
