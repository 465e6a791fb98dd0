"""Problems from input rows: the question, answer and solution of each row, and the rows that are set aside."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ossft_ray.common.errors import InputError
from ossft_ray.common.types import Problem
from ossft_ray.config import Columns, Data
from ossft_ray.data.problems import Rejection, noted_row, read_problems, source_digests
from tests.data_folder import DATA, needs_data

GOOD = {"problem": "1+1?", "answer": "2", "solution": r"\boxed{2}"}
GSM8K = Columns(question="question", answer="answer", expert_solution="answer")


def write(folder: Path, *rows: dict[str, Any] | str, name: str = "problems.jsonl") -> str:
    file = folder / name
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(file)


def read(path: str | list[str], **settings: Any) -> list[Problem | Rejection]:
    return [item if isinstance(item, Rejection) else item[1] for item in read_problems(Data(path=path, **settings))]


@pytest.mark.parametrize(
    "row, answer",
    [
        (GOOD, "2"),
        ({**GOOD, "answer": 2}, "2"),
        ({**GOOD, "answer": 2.0}, "2"),
        ({**GOOD, "answer": 0.5}, "0.5"),
        ({**GOOD, "answer": 0}, "0"),
        ({**GOOD, "answer": [1, "x"]}, "1, x"),
        ({"problem": "1+1?", "solution": r"It is \boxed{3}, no: \boxed{\frac{4}{2}}."}, r"\frac{4}{2}"),
        ({"problem": "1+1?", "solution": "1 + 1 = 2, #### 2"}, "2"),
    ],
)
def test_the_answer_of_a_row(tmp_path: Path, row: dict[str, Any], answer: str) -> None:
    (problem,) = read(write(tmp_path, row))
    assert problem == Problem("00000000", "1+1?", answer, row["solution"])


@pytest.mark.parametrize(
    "row, reason",
    [
        ({**GOOD, "problem": ""}, "no_question"),
        ({**GOOD, "problem": " \n"}, "no_question"),
        ({**GOOD, "problem": None}, "no_question"),
        ({**GOOD, "problem": 3}, "no_question"),
        ({**GOOD, "solution": ""}, "no_expert_solution"),
        ({**GOOD, "solution": ["a"]}, "no_expert_solution"),
        ({**GOOD, "answer": ""}, "no_answer"),
        ({**GOOD, "answer": None}, "no_answer"),
        ({**GOOD, "answer": True}, "no_answer"),
        ({"problem": "1+1?", "solution": "I do not know."}, "no_answer"),
        ({"problem": "1+1?", "solution": r"\boxed{}"}, "no_answer"),
        ({"answer": "2"}, "no_question"),
        ('{"problem": "1+1', "broken_row: not valid JSON"),
        ("[1]", "broken_row: not a JSON object"),
        ({**GOOD, "problem": "half \ud800"}, "broken_row: half of a surrogate pair"),
        ({**GOOD, "id": "\ud800"}, "broken_row: half of a surrogate pair"),
    ],
)
def test_an_unusable_row_is_set_aside_with_its_reason(tmp_path: Path, row: dict[str, Any] | str, reason: str) -> None:
    path = write(tmp_path, {**GOOD, "id": "first"}, row, {**GOOD, "id": "last"})
    first, rejection, last = read(path)
    assert isinstance(first, Problem) and isinstance(last, Problem)
    assert isinstance(rejection, Rejection) and rejection.reason.startswith(reason)
    stored = noted_row(rejection.record, rejection.reason, rejection.problem_id)
    assert (stored["source"], stored["row"]) == (path, 2)
    assert stored["content"] == row or json.loads(stored["content"]) == row
    stored["content"].encode()  # text that cannot be encoded cannot be written either


PROOF = {**GOOD, "answer": "proof"}
CHAT = {"messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": r"\boxed{2}"}]}


@pytest.mark.parametrize(
    "row",
    [PROOF, {**GOOD, "answer": ""}, {"problem": "1+1?", "solution": "I do not know."}],
    ids=["proof", "empty", "no box"],
)
def test_a_row_without_an_answer_is_kept_on_request(tmp_path: Path, row: dict[str, Any]) -> None:
    path = write(tmp_path, row)
    (rejection,) = read(path)
    assert isinstance(rejection, Rejection) and rejection.reason == "no_answer"
    assert read(path, no_answer="expert") == [Problem("00000000", "1+1?", "", row["solution"])]
    assert read(write(tmp_path, GOOD), no_answer="expert") == [Problem("00000000", "1+1?", "2", GOOD["solution"])]


def test_each_file_has_its_own_layout(tmp_path: Path) -> None:
    rows = {"a": GOOD, "b": CHAT, "c": {"question": "1+1?", "answer": "#### 2"}}
    paths = [write(tmp_path, "broken", row, name=f"{name}.jsonl") for name, row in rows.items()]
    problems = [item for item in read(paths) if isinstance(item, Problem)]
    assert [(problem.question, problem.answer) for problem in problems] == [("1+1?", "2")] * 3
    assert [problem.problem_id for problem in problems] == ["00000001", "00000003", "00000005"]


def test_a_chat_that_does_not_end_with_the_assistant_is_set_aside(tmp_path: Path) -> None:
    _, rejection = read(write(tmp_path, CHAT, {"id": "x", "messages": [*CHAT["messages"], CHAT["messages"][0]]}))
    assert isinstance(rejection, Rejection)
    expected = "broken_chat: the last message is the user's", "x"
    assert (rejection.reason, rejection.problem_id) == expected


def test_ids_may_repeat(tmp_path: Path) -> None:
    assert len([item for item in read(write(tmp_path, *[{**GOOD, "id": 1}] * 2)) if isinstance(item, Problem)]) == 2


@pytest.mark.parametrize(
    "change, same",
    [("nothing", True), ("name", False), ("content", False), ("order", False), ("more", False), ("settings", True)],
)
def test_digests_of_the_sources(tmp_path: Path, change: str, same: bool) -> None:
    paths = [write(tmp_path, GOOD, name="a.jsonl"), write(tmp_path, GOOD, GOOD, name="b.jsonl")]
    before = source_digests(Data(path=paths))
    assert len(before) == 2
    if change == "name":
        paths[1] = write(tmp_path, GOOD, GOOD, name="c.jsonl")
    elif change == "content":
        write(tmp_path, GOOD, PROOF, name="b.jsonl")
    elif change == "order":
        paths.reverse()
    elif change == "more":
        paths.append(write(tmp_path, GOOD, name="c.jsonl"))
    assert (source_digests(Data(path=paths, limit=1 if change == "settings" else None)) == before) is same
    with pytest.raises(InputError, match="no such file"):
        source_digests(Data(path=str(tmp_path / "missing.jsonl")))


def test_digests_do_not_depend_on_how_a_path_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, GOOD, name="a.jsonl")
    monkeypatch.chdir(tmp_path)
    digests = [source_digests(Data(path=each)) for each in (path, "a.jsonl", "./*.jsonl", f"file://{path}")]
    assert digests == [digests[0]] * 4


def test_ids_come_from_the_file_or_count_all_rows(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD, {**GOOD, "id": "mine"}, "broken", {**GOOD, "id": 7}, GOOD)
    ids = [item.problem_id for item in read(path) if isinstance(item, Problem)]
    assert ids == ["00000000", "mine", "7", "00000004"]


@pytest.mark.parametrize(
    "own, ids",
    [
        (["00000001", None], ["00000001", "row-00000001"]),
        ([None, "00000000"], ["00000000", "id-00000000"]),
        (["00000000", "00000001"], ["00000000", "00000001"]),
        (["00000002", None, None], ["00000002", "00000001", "row-00000002"]),
        ([None, 0, "0000000a"], ["00000000", "0", "0000000a"]),
        ([float("nan"), 7.0, None], ["00000000", "7", "00000002"]),
    ],
)
def test_a_row_without_an_id_gets_an_unused_id(tmp_path: Path, own: list[Any], ids: list[str]) -> None:
    rows = [GOOD if each is None else {**GOOD, "id": each} for each in own]
    assert [problem.problem_id for problem in read(write(tmp_path, *rows))] == ids


def test_row_numbers_continue_across_files(tmp_path: Path) -> None:
    paths = [write(tmp_path, GOOD, GOOD, name=f"{name}.jsonl") for name in "ab"]
    problems = read(paths)
    assert [p.problem_id for p in problems if isinstance(p, Problem)] == [f"{number:08d}" for number in range(4)]
    assert read(f"{tmp_path}/*.jsonl") == problems


def test_limit_takes_the_first_rows(tmp_path: Path) -> None:
    path = write(tmp_path, *({**GOOD, "id": number} for number in range(5)))
    assert [item.problem_id for item in read(path, limit=3)] == ["0", "1", "2"]


def test_columns_are_mapped(tmp_path: Path) -> None:
    path = write(tmp_path, {"uid": 5, "q": "1+1?", "gold": 2, "how": "count"})
    columns = Columns(id="uid", question="q", answer="gold", expert_solution="how")
    assert read(path, columns=columns) == [Problem("5", "1+1?", "2", "count")]


def test_gsm8k_layout_where_one_column_is_answer_and_solution(tmp_path: Path) -> None:
    solution = "48/2 = <<48/2=24>>24\n48+24 = 72\n#### 72"
    path = write(tmp_path, {"question": "How many?", "answer": solution})
    assert read(path, columns=GSM8K, annotations="keep") == [Problem("00000000", "How many?", "72", solution)]
    assert read(path, columns=GSM8K) == [Problem("00000000", "How many?", "72", "48/2 = 24\n48+24 = 72")]


def test_parquet(tmp_path: Path) -> None:
    rows = [{"id": number, "problem": "1+1?", "answer": 2.0, "solution": "s"} for number in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    assert read(str(tmp_path / "x.parquet")) == [Problem(str(number), "1+1?", "2", "s") for number in range(3)]


@pytest.mark.parametrize(
    "row, words",
    [
        (
            {"task": "q", "solution": "s"},
            "no column 'problem'; found: task, solution; name it in [data] columns.question",
        ),
        ({"problem": "q", "answer": "1"}, "no column 'solution'; found: problem, answer; name it in [data] columns"),
        ({}, "no column 'problem'; found: none"),
    ],
)
@pytest.mark.parametrize("broken_first", [False, True])
def test_a_file_without_a_needed_column_is_refused(
    tmp_path: Path, row: dict[str, Any], words: str, broken_first: bool
) -> None:
    path = write(tmp_path, *["{"] * broken_first, row)
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ") and words in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read(str(tmp_path / "missing.jsonl"))


@needs_data
def test_real_gsm8k_rows() -> None:
    path = DATA / "gsm8k_train.jsonl"
    problems = read(str(path))
    assert problems == read(str(path), columns=GSM8K)
    assert len(problems) == 7473
    assert not [item for item in problems if isinstance(item, Rejection)]
    assert problems[0].answer == "72"  # type: ignore[union-attr]


def test_a_correction_in_the_middle_of_a_large_file_changes_its_digest(tmp_path: Path) -> None:
    """Even one of the same length; otherwise a corrected answer would go unnoticed."""
    file, filler = tmp_path / "problems.jsonl", json.dumps({"question": "x" * 1000, "answer": "1"}) + "\n"
    middle = '{"question": "6 * 7?", "answer": "%s"}\n'
    digests = []
    for answer in ("41", "42"):
        file.write_text(filler * 2000 + middle % answer + filler * 2000)
        digests += source_digests(Data(path=str(file)))
    assert digests[0] != digests[1]
