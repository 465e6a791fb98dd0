"""Rows of JSONL and Parquet files, however the file ends its lines; a broken row is data, not an error."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ossft_ray.errors import InputError
from ossft_ray.records import Record, find_files, read_records

A, B = b'{"a": 1}', b'{"a": 2}'


def read(path: Path) -> list[Record]:
    return list(read_records(str(path)))


@pytest.mark.parametrize(
    "content, rows",
    [
        (A + b"\n" + B + b"\n", [1, 2]),
        (A + b"\n" + B, [1, 2]),
        (A + b"\n\n  \n" + B + b"\n\n", [1, 4]),
        (A + b"\r\n" + B + b"\r\n", [1, 2]),
        (b"\xef\xbb\xbf" + A + b"\n" + B, [1, 2]),
        (b"\xef\xbb\xbf" + A + b"\r\n\r\n" + B, [1, 3]),
        (b"  " + A + b"  \n\t" + B, [1, 2]),
    ],
    ids=["plain", "no last newline", "blank lines", "CRLF", "BOM", "BOM and CRLF", "white space"],
)
def test_lines(tmp_path: Path, content: bytes, rows: list[int]) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(content)
    assert read(file) == [Record(str(file), row, {"a": value}) for value, row in enumerate(rows, start=1)]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"], ids=["empty", "blank lines", "BOM alone"])
def test_a_file_without_rows(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(content)
    assert read(file) == []


@pytest.mark.parametrize(
    "line, words",
    [
        (b'{"a":', "not valid JSON"),
        (b"{'a': 1}", "not valid JSON"),
        (b'{"a": 1} {"a": 2}', "not valid JSON"),
        (b"[1, 2]", "not a JSON object"),
        (b"3", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "not valid JSON"),
        (b"\xff\xfe{}", "not valid JSON"),
    ],
    ids=["cut", "quotes", "two", "list", "number", "null", "deep", "huge integer", "not UTF-8"],
)
def test_a_broken_line_is_a_row_with_what_is_wrong(tmp_path: Path, line: bytes, words: str) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(A + b"\n" + line + b"\n" + B)
    first, broken, last = read(file)
    assert (first.values, last.values) == ({"a": 1}, {"a": 2})
    assert broken.row == 2 and broken.values == {}
    assert broken.broken is not None and broken.broken.startswith(words)
    assert broken.raw == line.decode("utf-8", errors="replace")


def test_lines_longer_than_a_block(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    texts = ["é" * 700_000, "x" * 3, "ü" * 1_300_000]
    file.write_text("".join(f'{{"a": "{text}"}}\n' for text in texts), encoding="utf-8")
    assert [record.values["a"] for record in read(file)] == texts


def test_parquet(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    rows: list[dict[str, Any]] = [{"a": str(number), "b": [number, None]} for number in range(3000)]
    pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=700)
    records = read(file)
    assert [record.values for record in records] == rows
    assert [record.row for record in records] == list(range(1, 3001))


@pytest.mark.parametrize("content", [b"", b"no Parquet at all, but long enough to have a footer"])
def test_a_file_that_is_no_parquet(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.parquet"
    file.write_bytes(content)
    with pytest.raises(InputError, match="cannot be read") as caught:
        read(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name in ("b.jsonl", "a.jsonl", "c.parquet", "notes.txt"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    "paths, names",
    [
        ("a.jsonl", ["a.jsonl"]),
        ("*.jsonl", ["a.jsonl", "b.jsonl"]),
        (["c.parquet", "[ab].jsonl"], ["c.parquet", "a.jsonl", "b.jsonl"]),
        (["b.jsonl", "a.jsonl"], ["b.jsonl", "a.jsonl"]),
        ([], []),
    ],
)
def test_find_files(files: Path, paths: str | list[str], names: list[str]) -> None:
    wanted = f"{files}/{paths}" if isinstance(paths, str) else [f"{files}/{path}" for path in paths]
    assert find_files(wanted) == [f"{files}/{name}" for name in names]


@pytest.mark.parametrize(
    "path, words",
    [
        ("missing.jsonl", "missing.jsonl: no such file"),
        ("*.json", "*.json: no such file"),
        ("", "/: is a folder; name its files, for instance"),
        ("notes.txt", "notes.txt: unknown kind of file; give .jsonl or .parquet"),
        (["a.jsonl", "missing.jsonl"], "missing.jsonl: no such file"),
    ],
)
def test_files_that_are_not_there(files: Path, path: str | list[str], words: str) -> None:
    paths = f"{files}/{path}" if isinstance(path, str) else [f"{files}/{name}" for name in path]
    with pytest.raises(InputError) as caught:
        find_files(paths)
    assert words in str(caught.value)


def test_a_scheme_that_nobody_knows() -> None:
    with pytest.raises(InputError, match=r"nowhere://bucket/a\.jsonl: not a path or URI"):
        find_files("nowhere://bucket/a.jsonl")
