"""JSON in common layouts: a row per line, arrays, rows over several lines; and files of another kind."""

import gzip
import io
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ossft_ray.common.errors import InputError
from ossft_ray.data.json_rows import JsonRow, read_json_rows
from ossft_ray.data.records import read_records

ROWS: list[dict[str, Any]] = [{"a": 1, "b": "é [{,\n"}, {"a": 2, "b": [{"c": "]"}]}, {"a": 3, "b": None}]
A_LINE = [json.dumps(row, ensure_ascii=False) for row in ROWS]


def read(text: str | bytes) -> list[JsonRow]:
    stream = io.BytesIO(text if isinstance(text, bytes) else text.encode())
    return list(read_json_rows(io.BufferedReader(stream, 1 << 20)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(ROWS),
        json.dumps(ROWS, indent=4),
        "\ufeff" + json.dumps(ROWS, indent=1, ensure_ascii=False),
        "[\n" + ",\n".join(A_LINE) + "\n]\n",
        "[\n" + "\n,".join(A_LINE) + "\n]",
        "\n".join(json.dumps([row]) for row in ROWS),
        "\n".join(json.dumps(row, indent=2) for row in ROWS),
        "\n".join(A_LINE),
    ],
    ids=["array", "indented", "BOM", "row per line", "leading commas", "array per line", "objects over lines", "JSONL"],
)
def test_layouts(text: str) -> None:
    assert read(text) == [JsonRow(number, row) for number, row in enumerate(ROWS, start=1)]


def test_an_array_much_longer_than_a_chunk_is_streamed() -> None:
    rows = [{"a": number, "b": "x" * 3000} for number in range(1500)]
    stream = io.BufferedReader(io.BytesIO(json.dumps(rows).encode()))  # type: ignore[arg-type]
    found = read_json_rows(stream)
    assert next(found).values == rows[0]
    assert stream.tell() < 3_000_000, "the rest is still to be read"
    assert [row.values for row in found] == rows[1:]


@pytest.mark.parametrize(
    "text, words",
    [
        ('[{"a": 1},\n {"a": }]', "it is a JSON array that is not valid JSON: Expecting value, line 2"),
        ('[{"a": 1},\n{"a": 2}\n', "the array is not closed, line 3"),
        ('[{"a": 1},\n{"a": "2', "Unterminated string"),
        ("[" * 100_000, "not valid JSON"),
        (b'[{"a": "\xe9"}]', "it is not UTF-8 text"),
        (gzip.compress(b"{}", mtime=0), "compressed with gzip; let its name end in .gz"),
        (b"PAR1" + bytes(20), "a Parquet file; let its name end in .parquet"),
        ('{"a": 1}'.encode("utf-16"), "UTF-16 text; convert it to UTF-8"),
    ],
)
def test_files_that_cannot_be_read_are_refused(tmp_path: Path, text: str | bytes, words: str) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as caught:
        list(read_records(str(file)))
    assert str(caught.value).startswith(f"{file}: cannot be read: it is ") and words in str(caught.value)


@pytest.mark.parametrize(
    "text, number, broken",
    [
        ('[1, {"a": 1}]', 1, "not a JSON object"),
        ('{"a": 1}\n{"a":\n', 2, "not valid JSON: Expecting value in column 6"),
        (b'{"a": 1}\n{"a": "caf\xe9"}', 2, "not valid JSON: byte 0xe9 is not UTF-8 (is it Latin-1? convert the file"),
    ],
)
def test_a_broken_row_is_named_with_its_place(text: str | bytes, number: int, broken: str) -> None:
    (found,) = [row for row in read(text) if row.broken]
    assert found.number == number and str(found.broken).startswith(broken)
    assert len(read(text)) == 2


def test_nan_is_missing_and_bytes_are_text(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"a": NaN, "b": [NaN], "c": -Infinity}')
    (row,) = read_records(str(tmp_path / "x.jsonl"))
    assert row.values == {"a": None, "b": [None], "c": -math.inf}
    table = pa.table({"a": pa.array(["é".encode(), b"\xff"]), "b": [math.nan, 1.0]})
    pq.write_table(table, tmp_path / "x.parquet")
    first, second = read_records(str(tmp_path / "x.parquet"))
    assert first.values == {"a": "é", "b": None}
    assert second.values == {"a": b"\xff", "b": 1.0}
