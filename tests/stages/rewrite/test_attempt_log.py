"""A part's log after a kill: it has every attempt that ended and every sample that began, and no torn line."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from ossft_ray.common.schema import DROPPED_SCHEMA, to_table
from ossft_ray.common.storage import Folder
from ossft_ray.common.types import Attempt, Problem, Response, RewriteResult
from ossft_ray.config import resolve
from ossft_ray.run_folder.names import BEFORE, INPUTS, UNFINISHED
from ossft_ray.run_folder.parts import move_part, write_part
from ossft_ray.stages.rewrite.attempt_log import AttemptLog, recorded_attempts
from ossft_ray.stages.rewrite.regrading import GradingKey
from ossft_ray.stages.rewrite.rows import dropped_row

PART = "part-00003.parquet"
PROBLEM, OTHER = Problem("p", "q", "1", "s"), Problem("q", "q", "1", "s")


def attempt(index: int, correct: bool = False, stage: Any = "self") -> Attempt:
    response = Response(f"text {index}", [index, 7], "stop")
    return Attempt(stage, index, correct, "correct" if correct else "wrong", "stop", 2, response)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder.at(str(tmp_path / "rewrite"))
    folder.write_json(INPUTS, {})
    return folder


def open_log(folder: Folder, worker_id: str = "w1", keep_texts: bool = False) -> AttemptLog:
    return AttemptLog(folder, PART, worker_id, keep_texts)


def test_the_next_worker_finds_finished_attempts_and_the_texts_it_may_need(folder: Folder) -> None:
    log = open_log(folder)
    for finished in (attempt(0), attempt(1, correct=True)):
        log.begin("p", "self", finished.index)
        log.end(PROBLEM, finished)
    found = open_log(folder, "w2").attempts(PROBLEM)
    assert found["self", 1] == attempt(1, correct=True)
    assert found["self", 0] == Attempt("self", 0, False, "wrong", "stop", 2, None), (
        "the text of a wrong attempt is never needed"
    )


def test_all_texts_are_logged_if_the_rows_will_hold_them(folder: Folder) -> None:
    open_log(folder, keep_texts=True).end(PROBLEM, attempt(0))
    assert open_log(folder, "w2").attempts(PROBLEM)["self", 0].response == attempt(0).response


def test_a_line_torn_by_a_kill_loses_only_its_own_attempt(folder: Folder) -> None:
    log = open_log(folder)
    for index in (0, 1):
        log.begin("p", "self", index)
        log.end(PROBLEM, attempt(index))
    (name,) = (folder / UNFINISHED).names()
    whole = (folder / UNFINISHED).read_bytes(name)
    (folder / UNFINISHED).write_bytes(name, whole[:-9])
    assert open_log(folder, "w2").attempts(PROBLEM).keys() == {("self", 0)}


def test_redone_and_speculative_work_is_counted_separately(folder: Folder) -> None:
    first = open_log(folder)
    for index in (0, 1, 2):
        first.begin("p", "self", index)
    first.end(PROBLEM, attempt(0))
    second = open_log(folder, "w2")
    for index in (1, 2):  # both were in flight when the first worker was killed
        second.begin("p", "self", index)
        second.end(PROBLEM, attempt(index))
    recorded = [("p", attempt(0)), ("p", attempt(1))]
    assert second.extra_work(recorded) == {
        "redone_attempts": 2,
        "redone_tokens": 4,
        "speculative_attempts": 1,
        "speculative_tokens": 2,
    }


def test_only_the_logs_of_a_written_part_are_deleted(folder: Folder) -> None:
    open_log(folder, "w0").begin("p", "self", 0)
    AttemptLog(folder, "part-00004.parquet", "w0", False).begin("q", "self", 0)
    open_log(folder, "w1").delete()
    assert (folder / UNFINISHED).names() == ["part-00004.w0.jsonl"]


def test_an_earlier_version_of_the_part_provides_its_attempts(folder: Folder) -> None:
    base = {"question": "q", "answer": "1", "expert_solution": "s", "num_attempts": 2, "num_correct": 1, "policy": "p"}
    attempts = [
        {"stage": "self", "index": i, "correct": i == 1, "reason": "r", "finish_reason": "stop", "num_tokens": 3 + i}
        for i in (0, 1)
    ]
    kept = {"response": "kept", "response_token_ids": [4, 5, 6, 7], "origin": "self", "kept_index": 1}
    kept["behavior_logprobs"] = logprobs = [-0.25, -0.5, -1.0, -2.0]
    example = {**base, **kept, "problem_id": "p", "attempts": attempts, "attempt_answers": [None, "1"]}
    dropped = {**base, "problem_id": "q", "attempts": attempts[:1], "attempt_answers": [None]}
    write_part(folder, PART, [example], [dropped], {"redone_attempts": 5})
    move_part(folder, PART, folder / BEFORE)
    log = open_log(folder)
    assert log.attempts(PROBLEM)["self", 0] == Attempt("self", 0, False, "r", "stop", 3, None)
    assert log.attempts(PROBLEM)["self", 1].response == Response("kept", [4, 5, 6, 7], "stop", logprobs=logprobs)
    assert list(log.attempts(OTHER)) == [("self", 0)]
    assert log.extra_work([])["redone_attempts"] == 5, "work that was redone stays counted"
    log.delete()
    assert (folder / BEFORE).names() == []


def test_stored_attempts_keep_the_tokens_that_were_sampled() -> None:
    """Rows with `keep_attempts` record them; rows without them yield attempts that have only texts."""
    drawn = [
        Attempt("self", index, False, "wrong", "stop", 2, Response(f"text {index}", [7 + index, 9], "stop"))
        for index in (0, 1)
    ]
    asked, unasked = (
        resolve({"policy": {"model": "any"}, "data": {"path": "any"}, "rewrite": {"keep_attempts": keep}})
        for keep in (True, False)
    )
    row = dropped_row(PROBLEM, RewriteResult(None, [], drawn), asked)
    read = to_table([row], DROPPED_SCHEMA).to_pylist()
    assert read[0]["attempt_token_ids"] == [[7, 9], [8, 9]]
    assert list(recorded_attempts(read)["p"].values()) == drawn
    older = recorded_attempts([row | {"attempt_token_ids": None}])["p"]["self", 1].response
    assert older == Response("text 1", [], "stop")
    assert dropped_row(PROBLEM, RewriteResult(None, [], drawn), unasked)["attempt_token_ids"] is None


@pytest.mark.parametrize(
    "now", [Problem("p", "q", "2", "s"), Problem("p", "q", "1", "t"), Problem("p", "q", "1", "s", "number")]
)
def test_attempts_graded_before_a_correction_are_taken_out(folder: Folder, now: Problem) -> None:
    log = open_log(folder)
    log.begin("p", "self", 0)
    log.end(PROBLEM, dataclasses.replace(attempt(0, correct=True), extracted="1"))
    assert open_log(folder, "w2").take_outdated(PROBLEM) == []
    third = open_log(folder, "w3")
    (found,) = third.take_outdated(now)
    assert found == (dataclasses.replace(attempt(0, correct=True), extracted="1"), GradingKey.of(PROBLEM))
    assert third.attempts(now) == {} and third.take_outdated(now) == []


def test_on_an_object_store_the_log_is_uploaded_at_intervals(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """pyarrow's mock filesystem cannot append, like S3."""
    store = Folder(fs._MockFileSystem(), "bucket/rewrite")
    store.write_json(INPUTS, {})
    monkeypatch.setattr("ossft_ray.run_folder.line_log._UPLOAD_SECONDS", 0.0)
    log = open_log(store)
    log.begin("p", "self", 0)
    log.end(PROBLEM, attempt(0, correct=True))
    deadline = time.monotonic() + 10
    while not open_log(store, "w2").attempts(PROBLEM):  # it is written in a thread
        assert time.monotonic() < deadline
        time.sleep(0.01)
        log.begin("other", "self", 0)  # lines logged during an upload wait for the next line
    assert open_log(store, "w2").attempts(PROBLEM)["self", 0] == attempt(0, correct=True)
    log.delete()
    assert (store / UNFINISHED).names() == []
