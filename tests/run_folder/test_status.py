"""`ossft status` of runs that have not begun, are under way, torn, complete or of several rounds; and its refusals."""

import json
import os
import shutil
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from ossft_ray.common.errors import JobError, Stopped
from ossft_ray.common.schema import EXAMPLE_SCHEMA, SCORE_SCHEMA, to_table
from ossft_ray.common.storage import Folder
from ossft_ray.config import resolve
from ossft_ray.run_folder import activity
from ossft_ray.run_folder.parts import write_counted
from ossft_ray.run_folder.provenance import write_config
from ossft_ray.run_folder.status import StageStatus, next_command, status

NOW = 2_000_000_000.0
HOST = socket.gethostname()
UNDER_WAY = {"parts": 1, "attempts": 4, "solved": 2}


def write_settings(run: Path, **sections: Any) -> None:
    settings: dict[str, Any] = {"run": {"output": str(run)}, "policy": {"model": "playground"}, "data": {"path": "x"}}
    write_config(resolve({**settings, **sections}))


def write_part(folder: Path, number: int, **counts: Any) -> None:
    schema = EXAMPLE_SCHEMA if folder.name == "rewrite" else SCORE_SCHEMA
    Folder.at(str(folder)).write_json("inputs.json", {})
    write_counted(Folder.at(str(folder)), f"part-{number:05d}.parquet", to_table([], schema), counts)


def log_of(problem: str) -> bytes:
    """A log with a wrong and a correct attempt at one problem; the last line is torn."""
    lines: list[Any] = [{"begin": [problem, "self", 0]}]
    lines += [{"end": problem, "attempt": {"correct": correct}} for correct in (False, True)]
    return "".join(json.dumps(line) + "\n" for line in lines).encode() + b'{"end'


def write_rewriting(run: Path) -> None:
    """Two of four parts are done, one is in progress; the newest session began after the first was done."""
    folder = Folder.at(str(run / "rewrite"))
    folder.write_json("inputs.json", {})
    folder.write_json("problems.json", {"problems": 60, "num_parts": 4})
    kept = {"self": 9, "guided": 5, "expert": 2, "attempts": 50, "generated_tokens": 1000}
    write_part(run / "rewrite", 0, **kept, started=NOW - 9000, ended=NOW - 8900)
    kept = {"self": 10, "dropped": 6, "attempts": 30, "generated_tokens": 234, "reasons": {"self": {"correct": 10}}}
    write_part(run / "rewrite", 1, **kept, started=NOW - 100, ended=NOW - 20)
    for writer in ("killed", "running"):
        (folder / "unfinished").write_bytes(f"part-00002.{writer}.jsonl", log_of(writer))
    (folder / "unfinished").write_bytes("part-00001.running.jsonl", log_of("not deleted yet"))
    (folder / "sessions").write_bytes("1.jsonl", json.dumps({"began": NOW - 9100}).encode() + b"\n")
    (folder / "sessions").write_bytes("2.jsonl", json.dumps({"began": NOW - 120}).encode() + b'\n{"pha')


def finish_rewriting(run: Path) -> None:
    origins = {"self": 30, "guided": 20, "expert": 10}
    manifest = {"problems": 60, "origins": origins, "dropped": 0, "attempts": 99, "generated_tokens": 4321}
    Folder.at(str(run / "rewrite")).write_json("manifest.json", manifest)


def write_scoring(run: Path) -> None:
    write_part(run / "score", 0, tokens=700, seconds=6.0)


def write_training(run: Path, torn: bytes = b'{"step": 6, "num_s') -> None:
    """Five of nine steps of 10 seconds each; a checkpoint after the second, a half-written one after the fourth."""
    folder = Folder.at(str(run / "train"))
    figures = {"loss": 0.5, "cross_entropy": 1.5, "tokens_per_second": 1234.5, "seconds": 10.0, "num_steps": 9}
    lines = "".join(json.dumps({"step": step, **figures}) + "\n" for step in range(1, 6))
    folder.write_bytes("metrics.jsonl", lines.encode() + torn)
    (folder / "checkpoints/step-000002").write_json("complete.json", {"step": 2})
    (folder / "checkpoints/step-000002/universal").write_json("complete.json", {"step": 2})
    (folder / "checkpoints/step-000004").write_bytes("state.pt", b"")


def finish_training(run: Path) -> None:
    Folder.at(str(run / "train")).write_json("manifest.json", {"steps": 9, "kept_step": 9, "seconds": 90.0})


def write_evaluation(run: Path) -> None:
    """The base model has answered all of one benchmark and a part of the other."""
    folder = Folder.at(str(run / "evaluate/base"))
    folder.write_json("sizes.json", {"aime24": {"problems": 30, "parts": 4}, "amc23": {"problems": 40, "parts": 5}})
    for benchmark, number in [*(("aime24", number) for number in range(4)), ("amc23", 3)]:
        (folder / benchmark).write_bytes(f"part-{number:05d}.parquet", b"")


def finish_evaluation(run: Path) -> None:
    folder = Folder.at(str(run / "evaluate"))
    for number in range(5):
        (folder / "base/amc23").write_bytes(f"part-{number:05d}.parquet", b"")
    scores = {"base": {"aime24": {"avg": 0.1, "problems": 30}, "amc23": {"avg": 0.3, "problems": 40}}}
    folder.write_json("scores.json", scores)


def finish_all(run: Path) -> None:
    """Every stage, including the evaluation of the trained model."""
    for write in (write_rewriting, finish_rewriting, write_scoring, write_training, finish_training):
        write(run)
    Folder.at(str(run / "score")).write_json(
        "manifest.json", {"kept": {"tokens": 700}, "expert_originals": {"tokens": 900}}
    )
    write_evaluation(run)
    finish_evaluation(run)
    shutil.copytree(run / "evaluate/base", run / "evaluate/trained")
    scores = json.loads((run / "evaluate/scores.json").read_text())
    (run / "evaluate/scores.json").write_text(json.dumps({**scores, "trained": scores["base"]}))
    (run / "report.html").write_text("page")


def age(run: Path, seconds: float) -> None:
    """Make every file `seconds` old."""
    for path in run.rglob("*"):
        if path.is_file():
            os.utime(path, (NOW - seconds, NOW - seconds))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_settings(tmp_path / "run")
    return tmp_path / "run"


def stage(run: Path, name: str) -> StageStatus:
    (stages,) = status(str(run), NOW).rounds
    return next(found for found in stages if found.name == name)


def test_a_run_that_has_not_begun(run: Path) -> None:
    found = status(str(run), NOW)
    assert [(each.name, each.state) for each in found.rounds[0]] == [
        ("rewrite", "not started"),
        ("score", "not started"),
        ("train", "not started"),
        ("evaluate", "not started"),
        ("report", "not started"),
    ]
    assert found.next == "ossft rewrite"


@pytest.mark.parametrize(
    "write, name, done, total, unit, left, details",
    [
        # 16 problems took 80 seconds, 28 are left, and 20 seconds have passed since
        (write_rewriting, "rewrite", 32, 60, "problems", 28 * 80 / 16 - 20, {"parts": 2, "under_way": UNDER_WAY}),
        (write_training, "train", 5, 9, "steps", 40.0, {"checkpoint": 2, "loss": 0.5, "tokens_per_second": 1234.5}),
        (write_evaluation, "evaluate", 5, 9, "parts", None, {"averages": {}}),
    ],
)
def test_a_stage_under_way(
    run: Path, write: Any, name: str, done: int, total: int, unit: str, left: float | None, details: dict[str, Any]
) -> None:
    write(run)
    age(run, 15)
    found = stage(run, name)
    assert (found.state, found.last_activity) == ("running", NOW - 15)
    assert (found.done, found.total, found.unit) == (done, total, unit)
    assert found.seconds_left == (pytest.approx(left) if left is not None else None)
    assert found.details == {**found.details, **details}
    assert status(str(run), NOW).next is None
    age(run, 130)
    assert stage(run, name).state == "stopped"
    assert stage(run, name).seconds_left is None


def test_the_counts_of_finished_parts_add_up(run: Path) -> None:
    write_rewriting(run)
    details = stage(run, "rewrite").details
    assert details["origins"] == {"self": 19, "guided": 5, "expert": 2}
    assert (details["dropped"], details["attempts"], details["generated_tokens"]) == (6, 80, 1234)


def test_rewriting_whose_input_is_still_being_read(run: Path) -> None:
    write_rewriting(run)
    (run / "rewrite/problems.json").unlink()
    found = stage(run, "rewrite")
    assert (found.done, found.total, found.seconds_left) == (32, None, None)


def test_scoring_counts_its_progress_in_parts(run: Path) -> None:
    write_rewriting(run)
    write_scoring(run)
    age(run, 1)
    found = stage(run, "score")
    assert (found.done, found.total, found.seconds_left) == (1, 2, 6.0)
    assert found.details == {"tokens": 700}


@pytest.mark.parametrize(
    "lines, age_seconds, state, reason",
    [
        ([{"began": NOW - 900, "host": "elsewhere", "pid": 1}], 500, "stopped", "no heartbeat"),
        ([{"began": NOW - 900, "host": "elsewhere", "pid": 1}, {"alive": NOW - 20}], 500, "running", ""),
        ([{"began": NOW - 900, "host": HOST, "pid": os.getpid()}, {"alive": NOW - 20}], 500, "running", ""),
        ([{"began": NOW - 9, "host": HOST, "pid": 2**30}, {"alive": NOW - 1}], 1, "stopped", "its process was killed"),
        ([{"began": NOW - 9}, {"ended": NOW - 1, "outcome": "stopped", "reason": ""}], 0, "stopped", ""),
        (
            [{"began": NOW - 9}, {"ended": NOW - 1, "outcome": "failed", "reason": "no memory"}],
            0,
            "failed",
            "no memory",
        ),
    ],
)
def test_the_activity_of_a_stage(run: Path, lines: list[Any], age_seconds: float, state: str, reason: str) -> None:
    write_training(run)
    (run / "train/activity.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    age(run, age_seconds)
    found = stage(run, "train")
    assert (found.state, found.reason[: len(reason)]) == (state, reason)
    assert bool(found.reason) == bool(reason)


@pytest.mark.parametrize(
    "error, outcome, reason",
    [
        (None, "complete", ""),
        (KeyboardInterrupt(), "stopped", ""),
        (Stopped("time is up"), "stopped", "time is up"),
        (JobError("worker 0 failed"), "failed", "worker 0 failed"),
    ],
)
def test_how_a_command_ends_is_recorded(
    tmp_path: Path, error: BaseException | None, outcome: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activity, "_HEARTBEAT_SECONDS", 0.01)
    monkeypatch.setattr("sys.argv", ["/usr/bin/ossft", "train", "--config", "my e.toml"])
    folder = Folder.at(str(tmp_path))
    with suppress(BaseException), activity.recorded(folder):
        assert activity.read_activity(folder, 0.0, time.time()).outcome == "running"
        while "alive" not in (tmp_path / "activity.jsonl").read_text():
            time.sleep(0.01)
        if error is not None:
            raise error
    found = activity.read_activity(folder, 0.0, time.time())
    assert (found.outcome, found.reason, found.is_recorded) == (outcome, reason, True)
    assert activity.newest_command([folder, folder / "absent"]) == "ossft train --config 'my e.toml'"


def test_a_removed_folder_is_not_recreated(tmp_path: Path) -> None:
    folder = Folder.at(str(tmp_path)) / "train"
    with activity.recorded(folder):
        folder.delete()
    assert not folder.exists()


def test_training_before_its_first_step(run: Path) -> None:
    Folder.at(str(run / "train")).write_json("inputs.json", {})
    age(run, 1)
    found = stage(run, "train")
    assert (found.state, found.done, found.total, found.seconds_left) == ("running", 0, None, None)
    assert found.details["checkpoint"] is None


@pytest.mark.parametrize(
    "writes, following",
    [
        ([write_rewriting], "ossft rewrite"),
        ([write_rewriting, finish_rewriting], "ossft score"),
        ([write_rewriting, finish_rewriting, write_scoring], "ossft score"),
        ([finish_all], None),
        ([finish_all, lambda run: (run / "report.html").unlink()], "ossft report"),
        ([finish_all, lambda run: shutil.rmtree(run / "evaluate/trained")], "ossft evaluate"),
        ([finish_all, lambda run: (run / "evaluate/base/amc23/part-00002.parquet").unlink()], "ossft evaluate"),
        ([finish_all, lambda run: (run / "train/manifest.json").unlink()], "ossft train"),
        ([finish_all, lambda run: shutil.rmtree(run / "score")], None),  # no later stage needed it
        ([write_rewriting, finish_rewriting, write_training, finish_training], "ossft evaluate"),
    ],
)
def test_what_to_run_next(run: Path, writes: list[Callable[[Path], None]], following: str | None) -> None:
    for write in writes:
        write(run)
    age(run, 1000)
    assert status(str(run), NOW).next == following


@pytest.mark.parametrize(
    "command, following",
    [
        (
            "ossft rewrite --start-over --config 'my e.toml' --set data.limit=5",
            "ossft rewrite --config 'my e.toml' --set data.limit=5",
        ),
        ("ossft run --config=e.toml -v", "ossft run --config=e.toml"),
        ("ossft demo --output 'my demo' --start-over", "ossft demo --output 'my demo'"),
        ("python script.py", "ossft rewrite"),
    ],
)
def test_the_next_command_repeats_the_runs_options(run: Path, command: str, following: str) -> None:
    write_rewriting(run)
    older = {"began": 1.0, "command": "ossft score --config old.toml"}
    for name, line in (("score", older), ("rewrite", {"began": NOW - 900, "command": command})):
        Folder.at(str(run / name)).write_bytes("activity.jsonl", json.dumps(line).encode() + b"\n")
    age(run, 1000)
    assert status(str(run), NOW).next == following


def test_a_complete_run(run: Path) -> None:
    finish_all(run)
    (stages,) = status(str(run), NOW).rounds
    assert {each.state for each in stages} == {"complete"}
    assert [(each.done, each.total) for each in stages] == [(60, 60), (1, 1), (9, 9), (18, 18), (None, None)]
    assert stages[3].details["averages"] == {"base": pytest.approx(0.2), "trained": pytest.approx(0.2)}


def test_a_run_in_an_object_store(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for write in (write_rewriting, write_training, write_evaluation):
        write(run)
    age(run, 15)
    (expected,) = status(str(run), NOW).rounds
    store = fs._MockFileSystem(current_time=datetime.fromtimestamp(NOW - 15, UTC))
    fs.copy_files(str(run), "bucket/run", destination_filesystem=store)
    monkeypatch.setattr(Folder, "at", lambda uri: Folder(store, uri.removeprefix("s3://")))
    assert status("s3://bucket/run", NOW).rounds == [expected]


def test_several_rounds(run: Path) -> None:
    write_settings(run, loop={"rounds": 3})
    finish_all(run)
    assert status(str(run), NOW).next == "ossft run", "round 2 is still to come"
    write_rewriting(run / "round-2")
    age(run, 1000)
    found = status(str(run), NOW)
    assert [[each.state for each in stages] for stages in found.rounds] == [
        ["complete"] * 5,
        ["stopped", *["not started"] * 4],
    ]
    assert found.next == "ossft run"


def test_training_on_rows_of_another_run_needs_no_rewriting(run: Path, tmp_path: Path) -> None:
    write_rewriting(tmp_path / "other")
    write_settings(run, train={"examples": str(tmp_path / "other/rewrite")})
    write_scoring(run)
    assert stage(run, "rewrite").state == "not needed"
    assert stage(run, "score").total == 2
    age(run, 1000)
    assert status(str(run), NOW).next == "ossft score"


def test_nothing_is_next_while_a_later_stage_is_running() -> None:
    stages = [StageStatus("rewrite", "stopped"), StageStatus("train", "running")]
    assert next_command([stages], 1) is None


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, command: Callable[[str], Callable[..., str]]) -> Callable[..., str]:
    monkeypatch.setattr("time.time", lambda: NOW)
    return command("status")


def test_the_status_on_a_terminal(run: Path, shown: Any) -> None:
    for write in (write_rewriting, finish_rewriting, write_training, write_evaluation):
        write(run)
    age(run / "rewrite", 9000)
    age(run / "train", 15)
    age(run / "evaluate", 7500)
    assert shown(str(run)).splitlines() == [
        str(run),
        "rewrite   complete     60 problems; 30 self, 20 guided, 10 expert; 4,321 tokens in 99 attempts",
        "score     not started",
        "train     running      5 of 9 steps; loss 0.5000, cross-entropy 1.5000; 1,234 tokens/s; checkpoint of step 2; "
        "about 40 s left",
        "                       last activity 15 s ago",
        "evaluate  stopped      5 of 9 parts; base: 1 of 2 benchmarks",
        "                       no heartbeat; killed, or its machine is gone",
        "                       last activity 2 h 5 min ago",
        "report    not started",
        "next: nothing while a stage is running",
    ]


def test_the_status_as_json(run: Path, shown: Any) -> None:
    write_training(run)
    age(run, 1000)
    found = json.loads(shown(str(run), "--json"))
    assert (found["run"], found["now"], found["next"]) == (str(run), NOW, "ossft rewrite")
    train = found["rounds"][0]["train"]
    assert (train["state"], train["done"], train["total"], train["last_activity"]) == ("stopped", 5, 9, NOW - 1000)


@pytest.mark.parametrize(
    "argument, words",
    [
        ("missing", "missing: no such folder; give a run's folder, its [run] output"),
        ("empty", "empty: holds no run, neither an experiment's config.json nor a stage; give"),
        ("model", "model: holds no run, neither an experiment's config.json nor a stage; give"),
        ("run/rewrite", "run/rewrite: holds no run, neither an experiment's config.json nor a stage; give the"),
        ("torn", "torn/rewrite/manifest.json: not valid JSON"),
        ("foreign", "part-00000.parquet: its metadata lacks ossft_counts, so ossft did not write it"),
        ("broken", "broken: cannot be read: "),
        ("nowhere://bucket/run", "nowhere://bucket/run: not a path or URI"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, shown: Any, argument: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("model").mkdir()
    Path("model/config.json").write_text('{"model_type": "qwen2"}')
    write_rewriting(Path("run"))
    for name in ("torn", "foreign", "broken"):
        shutil.copytree("run", name)
    Path("torn/rewrite/manifest.json").write_text("{")
    Folder.at("foreign/rewrite").write_table("part-00000.parquet", to_table([], EXAMPLE_SCHEMA))
    Path("broken/rewrite/part-00001.parquet").write_text("no Parquet")
    line = shown(argument, code=2)
    assert line.startswith("error: ") and line.count("\n") == 1
    assert words in line
