"""Files are complete or absent; a stage begins, resumes, completes, or refuses other inputs."""

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ossft_ray.common.errors import InputError
from ossft_ray.common.schema import PROBLEM_SCHEMA, to_table
from ossft_ray.common.storage import Folder, digest_files
from ossft_ray.run_folder.stage_folder import begin_stage, fingerprint, finish_stage

INPUTS = {"run": {"seed": 0}, "rewrite": {"stages": ["self"], "exhaustive": False}}


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
        {"problem_id": str(i), "question": "q", "answer": "1", "expert_solution": None, "verifier": ""}
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


def test_a_stage_begins_resumes_and_completes(folder: Folder) -> None:
    assert begin_stage(folder, INPUTS) is None
    folder.write_bytes("part-00000.parquet", b"kept")
    assert begin_stage(folder, INPUTS) is None, "the same command resumes"
    assert folder.exists("part-00000.parquet")
    manifest = finish_stage(folder, INPUTS, {"problems": 3})
    assert manifest == {"problems": 3, "fingerprint": fingerprint(INPUTS), "complete": True}
    assert begin_stage(folder, INPUTS) == manifest
    assert folder.read_json("manifest.json") == manifest


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"run": {"seed": 1}, "rewrite": INPUTS["rewrite"]}, ["run.seed (0, now 1)"]),
        (
            {"run": {"seed": 1}, "rewrite": {"stages": [], "exhaustive": False}},
            ['rewrite.stages (["self"], now [])', "run.seed (0, now 1)"],
        ),
        ({**INPUTS, "verify": {"kind": "math"}}, ["verify (null, now"]),
        ({"run": {"seed": 0}}, ["rewrite ("]),
    ],
)
@pytest.mark.parametrize("complete", [False, True])
def test_other_inputs_are_refused_with_the_keys_named(
    folder: Folder, changed: dict[str, Any], words: list[str], complete: bool
) -> None:
    begin_stage(folder, INPUTS)
    folder.write_bytes("part-00000.parquet", b"kept")
    if complete:
        finish_stage(folder, INPUTS, {})
    with pytest.raises(InputError) as caught:
        begin_stage(folder, changed)
    for word in [*words, folder.path, "--start-over"]:
        assert word in str(caught.value)
    assert "exhaustive (" not in str(caught.value), "keys that are equal are not named"
    assert folder.exists("part-00000.parquet"), "a refusal costs nothing"


def test_start_over_discards_the_folder(folder: Folder) -> None:
    begin_stage(folder, INPUTS)
    folder.write_bytes("part-00000.parquet", b"old")
    finish_stage(folder, INPUTS, {})
    assert begin_stage(folder, {"run": {"seed": 1}}, start_over=True) is None
    assert folder.names() == ["inputs.json"]
    assert folder.read_json("inputs.json") == {"run": {"seed": 1}}


def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written to"):
        begin_stage(Folder.at(str(tmp_path / "file")) / "rewrite", INPUTS)


@pytest.mark.parametrize(
    "first, second, equal",
    [
        ({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 3, "c": 2}, "a": 1}, True),
        ({"a": 1}, {"a": 2}, False),
        ({"a": 1}, {"b": 1}, False),
        ({"a": [1, 2]}, {"a": [2, 1]}, False),
        ({"a": (1, 2)}, {"a": [1, 2]}, True),
        ({"a": None}, {}, False),
    ],
)
def test_fingerprints_are_equal_exactly_when_the_inputs_are(
    first: dict[str, Any], second: dict[str, Any], equal: bool
) -> None:
    assert (fingerprint(first) == fingerprint(second)) is equal


def test_fingerprints_stay_the_same_from_release_to_release() -> None:
    # a constant: with another value, every finished run would be refused
    expected = "301ae413f731fdece829481e3627ba355e33307d68972174f405d0fa59766743"
    assert fingerprint({"run": {"seed": 0}, "name": "é"}) == expected


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
