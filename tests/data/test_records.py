"""Rows of JSONL and Parquet files, on disk and in object stores; a broken row is data, not an error."""

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from ossft_ray.common.errors import InputError
from ossft_ray.common.uris import filesystem_at
from ossft_ray.data.records import Record, find_files, read_records

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
def test_a_broken_line_is_a_row_with_the_reason(tmp_path: Path, line: bytes, words: str) -> None:
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


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_compressed_lines(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"x.jsonl{suffix}"
    with pa.output_stream(str(file)) as stream:  # compresses by the name's ending
        stream.write(A + b"\n" + B)
    assert file.read_bytes()[:2] != A[:2]
    assert find_files(str(tmp_path / "x.jsonl*")) == [str(file)]
    assert [record.values for record in read(file)] == [{"a": 1}, {"a": 2}]


def test_a_truncated_compressed_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl.gz"
    file.write_bytes(gzip.compress(b"\n".join([A] * 1000))[:-12])
    with pytest.raises(InputError, match=r"x\.jsonl\.gz: cannot be read") as caught:
        read(file)
    assert "\n" not in str(caught.value)


def test_a_parquet_cell_that_is_not_utf8_breaks_only_its_row(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    texts = [b"%d" % number for number in range(600)]
    texts[300] = b"bad \xff"
    buffers = pa.array(texts, pa.binary()).buffers()
    pq.write_table(pa.table({"a": pa.Array.from_buffers(pa.string(), len(texts), buffers)}), file)
    records = read(file)
    assert [record.row for record in records] == list(range(1, 601))
    assert [record.row for record in records if record.broken] == [301]
    broken = records[300]
    assert broken.values == {} and "codec can't decode" in str(broken.broken) and "bad" in str(broken.raw)
    assert records[301].values == {"a": "301"}


def test_a_large_row_group_is_read_in_pieces(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    texts = [f"{number}" * 2000 for number in range(10_000, 20_000)]
    pq.write_table(pa.table({"a": texts}), file, compression="none", use_dictionary=False)
    assert file.stat().st_size > 90e6
    before, most = pa.total_allocated_bytes(), 0
    del texts
    for number, record in enumerate(read_records(str(file))):
        assert record.values["a"].startswith(str(10_000 + number))
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 30e6


@pytest.mark.parametrize("content", [b"", b"no Parquet at all, but long enough to have a footer"])
def test_a_file_that_is_not_parquet_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.parquet"
    file.write_bytes(content)
    with pytest.raises(InputError, match="cannot be read") as caught:
        read(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name in ("b.jsonl", "a.jsonl", "c.parquet", "notes.txt"):
        (tmp_path / name).touch()
    for name in ("deep/d.jsonl", "deep/er/e.jsonl", ".hidden/h.jsonl", "deep/.f.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    "path, names",
    [
        ("a.jsonl", ["a.jsonl"]),
        ("*.jsonl", ["a.jsonl", "b.jsonl"]),
        ("[ab].jsonl", ["a.jsonl", "b.jsonl"]),
        ("*/*.jsonl", ["deep/d.jsonl"]),
        ("deep/*/*.jsonl", ["deep/er/e.jsonl"]),
        ("d*/e*/[!d].jsonl", ["deep/er/e.jsonl"]),
        ("**/*.jsonl", ["a.jsonl", "b.jsonl", "deep/d.jsonl", "deep/er/e.jsonl"]),
        ("deep/**/*.jsonl", ["deep/d.jsonl", "deep/er/e.jsonl"]),
        ("deep/**", ["deep/d.jsonl", "deep/er/e.jsonl"]),
        (".hidden/*.jsonl", [".hidden/h.jsonl"]),
        (".h*/*.jsonl", [".hidden/h.jsonl"]),
        ("deep/.*.jsonl", ["deep/.f.jsonl"]),
    ],
)
@pytest.mark.parametrize("place", ["", "file://"])
def test_find_files(files: Path, path: str, names: list[str], place: str) -> None:
    assert find_files(f"{place}{files}/{path}") == [f"{place}{files}/{name}" for name in names]


def test_an_existing_file_with_a_wildcard_in_its_name(tmp_path: Path) -> None:
    for name in ("x[1].jsonl", "x1.jsonl"):
        (tmp_path / name).touch()
    assert find_files(f"{tmp_path}/x[1].jsonl") == [f"{tmp_path}/x[1].jsonl"]
    assert find_files(f"{tmp_path}/x?.jsonl") == [f"{tmp_path}/x1.jsonl"]


def test_names_are_percent_encoded_in_uris(tmp_path: Path) -> None:
    (tmp_path / "a b%.jsonl").write_bytes(A)
    (found,) = find_files(f"file://{tmp_path}/*.jsonl")
    assert found.endswith("/a%20b%25.jsonl")
    assert [record.values for record in read_records(found)] == [{"a": 1}]


@pytest.fixture
def bucket() -> Iterator[str]:
    """An object store in memory, with files in `data/`."""
    filesystem, _ = filesystem_at("fsspec+memory://bucket")
    for number in (2, 1):
        filesystem.create_dir("/bucket/data/deep")
        for folder in ("data", "data/deep"):
            with filesystem.open_output_stream(f"/bucket/{folder}/x {number}.jsonl") as stream:
                stream.write(b'{"a": %d}' % number)
    table = pa.table({"a": [3]})
    pq.write_table(table, "/bucket/data/x.parquet", filesystem=filesystem)
    yield "fsspec+memory://bucket"
    filesystem.delete_dir("/bucket")


@pytest.mark.parametrize(
    "path, names, values",
    [
        ("data/x *.jsonl", ["data/x 1.jsonl", "data/x 2.jsonl"], [1, 2]),
        ("d*/x*", ["data/x 1.jsonl", "data/x 2.jsonl", "data/x.parquet"], [1, 2, 3]),
        ("**/*1.jsonl", ["data/deep/x 1.jsonl", "data/x 1.jsonl"], [1, 1]),
        ("data/x.parquet", ["data/x.parquet"], [3]),
    ],
)
def test_an_object_store(bucket: str, path: str, names: list[str], values: list[int]) -> None:
    found = find_files(f"{bucket}/{path}")
    assert found == [f"{bucket}/{name}" for name in names]
    assert [record.values["a"] for path in found for record in read_records(path)] == values


@pytest.mark.parametrize(
    "path, words",
    [
        ("data/y*.jsonl", "data/y*.jsonl: no such file"),
        ("nothing/*.jsonl", "nothing/*.jsonl: no such file"),
        ("data/x 3.jsonl", "data/x 3.jsonl: no such file"),
        ("data", "bucket/data: is a folder; name its files, for instance fsspec+memory://bucket/data/*.parquet"),
    ],
)
def test_missing_files_in_an_object_store(bucket: str, path: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        find_files(f"{bucket}/{path}")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "path, words",
    [
        ("s3://*/x.jsonl?region=us-east-1", "a bucket cannot be a glob; name the bucket"),
        ("hf://nothing/x.jsonl", "hf://nothing/x.jsonl: "),
    ],
)
def test_stores_that_cannot_be_listed(path: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        find_files(path)
    assert words in str(caught.value) and "\n" not in str(caught.value)


class Unreachable(fsspec.AbstractFileSystem):
    """A store whose client always raises its own type of error."""

    def info(self, path: str, **keywords: Any) -> Any:
        raise RuntimeError(f"no way to {path}\nat all")

    def find(self, path: str, **keywords: Any) -> Any:
        self.info(path)

    def isfile(self, path: str) -> bool:
        return True

    def _open(self, path: str, *arguments: Any, **keywords: Any) -> Any:
        self.info(path)


@pytest.mark.parametrize("name", ["x.jsonl", "*.jsonl"])
def test_an_error_of_a_stores_client_is_one_line(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    filesystem = fs.PyFileSystem(fs.FSSpecHandler(Unreachable()))
    monkeypatch.setattr("ossft_ray.data.records.filesystem_at", lambda uri: (filesystem, uri.removeprefix("own://")))
    for use in (find_files, lambda uri: list(read_records(uri))):
        with pytest.raises(InputError, match=r"own://bucket/.*\.jsonl: cannot be .*: no way to bucket[^\n]*$"):
            use(f"own://bucket/{name}")


def test_the_options_of_a_uri_are_not_part_of_file_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert filesystem_at("s3://bucket/a/x.jsonl?region=us-east-1")[1] == "bucket/a/x.jsonl"
    listed = fs._MockFileSystem()
    for name in ("x-1.jsonl", "x-2.jsonl", "x-3.txt"):
        listed.create_dir("bucket/a")
        listed.open_output_stream(f"bucket/a/{name}").close()
    monkeypatch.setattr("ossft_ray.data.records.filesystem_at", lambda uri: (listed, filesystem_at(uri)[1]))
    found = find_files("s3://bucket/a/x-*.jsonl?region=us-east-1")
    assert found == [f"s3://bucket/a/x-{number}.jsonl?region=us-east-1" for number in (1, 2)]


@pytest.mark.parametrize(
    "path, words",
    [
        ("missing.jsonl", "missing.jsonl: no such file"),
        ("*.json", "*.json: no such file"),
        ("", "/: is a folder; name its files, for instance"),
        ("notes.txt", "notes.txt: unknown kind of file; give .jsonl or .parquet"),
    ],
)
def test_missing_files_are_refused(files: Path, path: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        find_files(f"{files}/{path}")
    assert words in str(caught.value)


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(InputError, match=r"nowhere://bucket/a\.jsonl: not a path or URI"):
        find_files("nowhere://bucket/a.jsonl")
