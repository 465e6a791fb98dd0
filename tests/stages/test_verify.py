"""`ossft verify` adds verdicts to the rows of a file, and rejects bad input with one line."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ossft_ray.common.errors import InputError
from ossft_ray.config import Verify, VerifyNumber, VerifyPython
from ossft_ray.stages.verify import FileColumns, GradedRow, verify_file
from ossft_ray.terminal.verdicts import print_verification

ROWS: list[dict[str, Any]] = [
    {"id": 1, "answer": "5", "response": r"\boxed{5}", "note": "ü"},
    {"id": 2, "answer": 27.0, "response": r"\boxed{28}", "note": None},
    {"id": 3, "answer": "5", "response": None, "note": "x"},
    {"id": 4, "answer": None, "response": r"\boxed{5}", "note": "x"},
]
REASONS = ["correct", "wrong", "no_answer", "no_gold"]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        texts = [row | {"answer": None if row["answer"] is None else str(row["answer"])} for row in rows]
        pq.write_table(pa.Table.from_pylist(texts), path)
    else:
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


@pytest.mark.parametrize(
    ("source", "output"),
    [("in.jsonl", None), ("in.parquet", None), ("in.jsonl", "new/out.jsonl"), ("in.parquet", "out.jsonl")],
)
def test_rows_keep_their_columns_and_gain_verdicts(tmp_path: Path, source: str, output: str | None) -> None:
    path = write(tmp_path / source, ROWS)
    before = read(path)
    progress: list[dict[str, Any]] = []
    summary = verify_file(path, None if output is None else tmp_path / output, on_progress=progress.append)
    default = path.with_name(f"in.verified{path.suffix}")
    assert summary.output == (default if output is None else tmp_path / output)
    rows = read(summary.output)
    assert [row["reason"] for row in rows] == REASONS
    assert [row["correct"] for row in rows] == [True, False, False, False]
    assert [row["extracted"] for row in rows] == ["5", "28", None, None]
    assert [{name: row[name] for name in ROWS[0]} for row in rows] == before
    assert (summary.num_rows, summary.num_correct, summary.accuracy) == (4, 1, 0.25)
    assert summary.reasons == dict.fromkeys(REASONS, 1)
    assert {name: progress[-1][name] for name in ("total", "rows", "correct")} == {"total": 4, "rows": 4, "correct": 1}
    assert summary.verdicts_per_second > 0 and summary.num_over_limits == 0
    assert sorted(entry.name for entry in summary.output.parent.iterdir() if entry.name.startswith(".")) == []


def test_rows_may_have_other_columns_questions_and_verifiers(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"gold": ["2", "3"], "text": r"\boxed{3, 2}"},
        {"gold": ["USA", "US"], "text": r"\boxed{us}", "by": "text"},
        {"gold": "5 km", "text": r"\boxed{5000 m}", "by": "number"},
        {"gold": "B", "text": [{"role": "user", "content": "?"}, {"role": "assistant", "content": r"\boxed{seven}"}]},
    ]
    rows[3] |= {"by": "choice", "prompt": "(A) 6 (B) seven"}
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    summary = verify_file(path, columns=FileColumns("gold", "text", "prompt", "by"))
    assert [row["reason"] for row in read(summary.output)] == ["correct"] * 4
    assert [list(row)[:2] for row in read(summary.output)] == [["gold", "text"]] * 4


def test_settings_and_limits_apply(tmp_path: Path) -> None:
    rows = [{"answer": "1.00", "response": r"\boxed{1.05}"}, {"answer": "1", "response": r"\boxed{1}"}]
    path = write(tmp_path / "in.jsonl", rows)
    loose = Verify(kind="number", number=VerifyNumber(relative_tolerance=0.1))
    kinds = (loose, Verify(kind="number"))
    assert [verify_file(path, verify=verify, overwrite=True).num_correct for verify in kinds] == [2, 1]
    bomb = write(tmp_path / "bomb.jsonl", [{"answer": "x", "response": "hang"}, {"answer": "x", "response": "x"}])
    python = VerifyPython(function="tests.verification.hanging_verifier:grade")
    summary = verify_file(bomb, verify=Verify(kind="python", timeout_seconds=0.3, python=python))
    assert summary.reasons == {"timeout": 1, "correct": 1} and summary.num_over_limits == 1


@pytest.mark.thorough
def test_many_rows_keep_their_order(tmp_path: Path) -> None:
    rows = [{"number": number, "answer": "1", "response": rf"\boxed{{{number}}}"} for number in range(3000)]
    summary = verify_file(write(tmp_path / "in.jsonl", rows))
    graded = read(summary.output)
    assert [row["number"] for row in graded] == list(range(3000))
    assert [row["extracted"] for row in graded] == [str(number) for number in range(3000)]
    assert [row["number"] for row in graded if row["correct"]] == [1]


def test_grading_again_replaces_the_verdicts_in_parquet_too(tmp_path: Path) -> None:
    rows = [{"answer": "5", "response": r"\boxed{5}", "reason": "old"}, {"answer": "6", "response": "", "more": [1]}]
    first = verify_file(write(tmp_path / "in.jsonl", rows), tmp_path / "out.parquet").output
    assert pq.read_schema(first).names == ["answer", "response", "more", "correct", "reason", "extracted"]
    again = verify_file(first, first, overwrite=True).output
    assert read(again) == [
        {"answer": "5", "response": r"\boxed{5}", "more": None, "correct": True, "reason": "correct", "extracted": "5"},
        {"answer": "6", "response": "", "more": [1], "correct": False, "reason": "no_answer", "extracted": None},
    ]


@pytest.mark.parametrize("output", [None, "kept.jsonl"])
def test_an_existing_output_is_replaced_only_if_told(tmp_path: Path, output: str | None) -> None:
    path = write(tmp_path / "in.jsonl", ROWS)
    target = output and tmp_path / output
    first = verify_file(path, target).output
    before = first.read_bytes()
    write(path, ROWS[:2])
    with pytest.raises(InputError, match=rf"{first.name}: exists already; give another --output, or --overwrite"):
        verify_file(path, target)
    assert first.read_bytes() == before
    assert verify_file(path, target, overwrite=True).num_rows == len(read(first)) == 2


def test_only_some_verdicts_are_written_and_shown(tmp_path: Path) -> None:
    summary = verify_file(write(tmp_path / "in.jsonl", ROWS), only=["wrong", "no_gold", "nope"], num_shown=1)
    assert [row["id"] for row in read(summary.output)] == [2, 4]
    assert (summary.num_rows, summary.num_written, summary.reasons) == (4, 2, dict.fromkeys(REASONS, 1))
    assert summary.shown == [GradedRow(2, "wrong", "27", "28", r"\boxed{28}")]
    assert len(verify_file(tmp_path / "in.jsonl", overwrite=True, num_shown=9).shown) == 4


GOOD = r'{"answer": "5", "response": "\\boxed{5}"}'


@pytest.mark.parametrize(
    ("name", "content", "output", "message"),
    [
        ("in.jsonl", None, None, r"in\.jsonl: no such file"),
        ("in.jsonl", "", None, "no rows"),
        ("in.jsonl", "\n \n", None, "no rows"),
        ("in.jsonl", f"{GOOD}\n{{broken\n", None, r"in\.jsonl:2: not valid JSON"),
        ("in.jsonl", f"{GOOD}\n[1]\n", None, r"in\.jsonl:2: not a JSON object"),
        ("in.jsonl", '{"answer": "5", "text": "a"}', None, "column 'response' is missing; found answer, text"),
        ("in.jsonl", '{"response": "5"}', None, "column 'answer' is missing; found response"),
        ("in.jsonl", '{"answer": "5", "response": "5", "verifier": "maths"}', None, "no verification kind 'maths'"),
        ("in.jsonl", '{"answer": true, "response": "5"}', None, "'answer' must hold text or numbers, not bool"),
        ("in.jsonl", '{"answer": "5", "response": 5}', None, "'response' must hold text, not int"),
        ("in.parquet", "no parquet", None, r"in\.parquet: cannot be read"),
        ("in.csv", GOOD, None, r"in\.csv: unknown kind of file"),
        ("in.jsonl", GOOD, "out.txt", r"out\.txt: unknown kind of file"),
        ("in.jsonl", GOOD, "in.jsonl/out.jsonl", r"out\.jsonl: cannot be written: "),
        ("in.jsonl", f'{GOOD}\n{{"answer": 5, "response": ""}}', "out.parquet", "do not fit Parquet columns"),
    ],
)
def test_bad_input_is_rejected_and_leaves_no_file(
    tmp_path: Path, name: str, content: str | None, output: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=message) as raised:
        verify_file(tmp_path / name, None if output is None else tmp_path / output)
    assert "\n" not in str(raised.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_half_of_a_surrogate_pair_survives(tmp_path: Path) -> None:
    rows = [{"answer": "5", "response": "\ud835 \\boxed{5}", "note": "\ud800ü"}]
    assert read(verify_file(write(tmp_path / "in.jsonl", rows)).output) == [
        rows[0] | {"correct": True, "reason": "correct", "extracted": "5"}
    ]


def grade_in_any_words(answer: str, response: str) -> tuple[bool, str]:
    """Gives reasons that are markup, not ASCII, or not Unicode."""
    return False, {"a": "[/bad]", "b": "格式错误", "c": "half \ud800"}[response]


@pytest.mark.parametrize("suffix", ["jsonl.gz", "ndjson.zst"])
def test_a_compressed_file_is_read_and_written(tmp_path: Path, suffix: str) -> None:
    source = tmp_path / f"in.{suffix}"
    with pa.output_stream(str(source)) as stream:
        stream.write(b"".join(json.dumps(row).encode() + b"\n" for row in ROWS))
    summary = verify_file(source)
    assert summary.output == tmp_path / f"in.verified.{suffix}"
    with pa.input_stream(str(summary.output)) as stream:
        assert [json.loads(line)["reason"] for line in stream.read().splitlines()] == REASONS
    assert sorted(file.name for file in tmp_path.iterdir()) == [source.name, summary.output.name]


def test_rows_are_read_as_rewrite_reads_them(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "?"}, {"from": "gpt", "value": r"\boxed{5}"}]
    rows = [
        {"answer": "2 + 3 = 5\n#### 5", "response": turns},
        {"answer": "5</s>", "response": [{"role": "assistant", "content": [{"type": "text", "text": "#### 5"}]}]},
        {"answer": float("nan"), "response": r"\boxed{5}"},
    ]
    (tmp_path / "in.json").write_text(json.dumps(rows, indent=1))
    summary = verify_file(tmp_path / "in.json")
    assert [row["reason"] for row in read(summary.output)] == ["correct", "correct", "no_gold"]
    assert summary.output.name == "in.verified.json"


def test_reasons_of_any_kind_are_stored_and_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "data[v2].jsonl", [{"answer": "5", "response": response} for response in "abc"])
    function = f"{__name__}:{grade_in_any_words.__name__}"
    verify = Verify(kind="python", python=VerifyPython(function=function), num_workers=1)
    summary = verify_file(source, tmp_path / "out[/v2].parquet", verify)
    assert [row["reason"] for row in read(summary.output)] == ["[/bad]", "格式错误", "half ?"]
    print_verification(summary)
    shown = capsys.readouterr().out
    assert "[/bad]" in shown and "格式错误" in shown and "out[/v2].parquet" in shown


def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", ROWS)
    with pytest.raises(InputError, match=r"in\.jsonl/out\.jsonl: cannot be written: "):
        verify_file(source, source / "out.jsonl")
