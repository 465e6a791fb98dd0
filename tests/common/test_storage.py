"""Folders: files that are complete or absent, digests, and locations."""

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ossft_ray.common.errors import InputError
from ossft_ray.common.schema import PROBLEM_SCHEMA, SAMPLE_SCHEMA, to_table
from ossft_ray.common.storage import Folder, digest_files


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder.at(str(tmp_path / "run")) / "rewrite"


def test_a_write_leaves_the_file_and_nothing_else(folder: Folder) -> None:
    folder.write_bytes("a.bin", b"one")
    folder.write_bytes("a.bin", b"two")
    assert os.listdir(folder.path) == ["a.bin"]
    assert folder.read_bytes("a.bin") == b"two"


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write_bytes("a.bin", b"old")

    def fail(*arguments: Any) -> None:
        assert len(os.listdir(folder.path)) == 2, "the new file must be written next to the old one first"
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            folder.write_bytes("a.bin", b"new")
    assert os.listdir(folder.path) == ["a.bin"]
    assert folder.read_bytes("a.bin") == b"old"


def test_names_are_sorted_and_only_those_of_this_folder(folder: Folder) -> None:
    assert folder.names() == []
    for name in ("part-00001.parquet", "part-00000.parquet", "rejected-00000.parquet", "manifest.json"):
        folder.write_bytes(name, b"")
    (folder / "problems").write_bytes("part-00009.parquet", b"")
    assert folder.names("part-*.parquet") == ["part-00000.parquet", "part-00001.parquet"]
    assert len(folder.names()) == 4


def test_an_unfinished_write_is_not_a_part(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: (seen.append(folder.names("part-*.parquet")), replace(*paths)))
    folder.write_bytes("part-00000.parquet", b"")
    assert seen == [[]]


def test_json_and_tables_round_trip(folder: Folder) -> None:
    folder.write_json("a.json", {"π": [1, 2.5, None, "é"]})
    assert folder.read_json("a.json") == {"π": [1, 2.5, None, "é"]}
    rows = [
        {
            "problem_id": str(i),
            "question": "q",
            "answer": "1",
            "expert_solution": None,
            "verifier": "",
            "conversation": "",
        }
        for i in range(3)
    ]
    for number, row in enumerate(rows):
        folder.write_table(
            f"part-{number}.parquet", to_table([row], PROBLEM_SCHEMA).replace_schema_metadata({"k": str(number)})
        )
    assert folder.read_tables("part-*.parquet", PROBLEM_SCHEMA).to_pylist() == rows
    assert folder.read_metadata("part-2.parquet")[b"k"] == b"2"
    assert folder.read_tables("other-*", PROBLEM_SCHEMA).schema == PROBLEM_SCHEMA


def test_delete_and_exists(folder: Folder) -> None:
    folder.delete()
    folder.write_bytes("a", b"")
    assert folder.exists() and folder.exists("a") and not folder.exists("b")
    folder.delete()
    assert not folder.exists()


def test_uris() -> None:
    assert Folder.at("file:///tmp/x").path == "/tmp/x"
    assert Folder.at("relative").path == os.path.abspath("relative")
    assert Folder.of_file("/a/b.jsonl")[0].path == "/a" and Folder.of_file("b.jsonl")[1] == "b.jsonl"
    with pytest.raises(InputError, match="nowhere://bucket"):
        Folder.at("nowhere://bucket")


@pytest.mark.parametrize(
    "place, changed",
    [(0, True), (-1, True), (None, False)],
    ids=["first byte", "last byte", "untouched"],
)
def test_digest_sees_both_ends_of_a_large_file(folder: Folder, place: int | None, changed: bool) -> None:
    content = bytearray(3 << 20)
    folder.write_bytes("model.safetensors", bytes(content))
    before = digest_files(folder, ["model.safetensors"])
    if place is not None:
        content[place] = 1
    folder.write_bytes("model.safetensors", bytes(content))
    assert (digest_files(folder, ["model.safetensors"]) != before) is changed


def test_digest_sees_names_and_sizes(folder: Folder) -> None:
    for name, size in (("a", 1), ("b", 1), ("c", 2)):
        folder.write_bytes(name, bytes(size))
    digests = [digest_files(folder, names) for names in (["a"], ["b"], ["c"], ["a", "b"])]
    assert len(set(digests)) == 4
    assert digest_files(folder, ["b", "a"]) == digests[3]


def test_a_table_is_written_whole(folder: Folder) -> None:
    table = pa.table({"x": list(range(10_000))})
    folder.write_table("x.parquet", table)
    assert folder.read_table("x.parquet") == table


def test_parts_from_before_a_column_existed_are_read_with_nulls(tmp_path: Path) -> None:
    folder = Folder.at(str(tmp_path))
    table = to_table([{"problem_id": "p", "index": 0, "vote": 0}], SAMPLE_SCHEMA)
    folder.write_table("part-00000.parquet", table.drop_columns("vote"))
    folder.write_table("part-00001.parquet", table)
    assert folder.read_tables("part-*", SAMPLE_SCHEMA)["vote"].to_pylist() == [None, 0]
    folder.write_table("part-00002.parquet", table.drop_columns("correct"))
    with pytest.raises(InputError, match=r"part-00002\.parquet: column 'correct' is missing"):
        folder.read_tables("part-*", SAMPLE_SCHEMA)
