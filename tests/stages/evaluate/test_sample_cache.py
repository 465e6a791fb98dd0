"""Samples that runs share: an entry is used only where it is whole, readable, and what was asked for."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from ossft_ray.common.schema import SAMPLE_SCHEMA, to_table
from ossft_ray.common.storage import Folder
from ossft_ray.common.types import Problem
from ossft_ray.policy.chat import Chat
from ossft_ray.run_folder.stage_folder import fingerprint
from ossft_ray.stages.evaluate.sample_cache import cache_folder, entry_inputs, find, keep

PROBLEMS = [Problem("a", "1+1?", "2", None), Problem("b", "1+2?", "3", None)]
INPUTS = {"evaluate": {"run": {"seed": 0}}, "benchmark": {"name": "x"}}


def samples(*places: tuple[str, int]) -> pa.Table:
    return to_table([{"problem_id": name, "index": index, "correct": True} for name, index in places], SAMPLE_SCHEMA)


WHOLE = samples(("a", 0), ("a", 1), ("b", 0), ("b", 1))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder.at(str(tmp_path / "cache"))


def test_what_was_kept_is_found(folder: Folder) -> None:
    said: list[str] = []
    assert find(folder, INPUTS, PROBLEMS, 2, said.append) is None
    keep(folder, INPUTS, WHOLE, said.append)
    assert find(folder, INPUTS, PROBLEMS, 2, said.append) == WHOLE
    assert find(folder, {**INPUTS, "benchmark": {"name": "y"}}, PROBLEMS, 2, said.append) is None
    assert said == []


@pytest.mark.parametrize(
    "inputs, table",
    [
        (INPUTS, samples(("a", 0), ("a", 1), ("b", 0))),
        (INPUTS, samples(("b", 0), ("b", 1), ("a", 0), ("a", 1))),
        (INPUTS, samples(("a", 0), ("a", 1), ("b", 0), ("c", 1))),
        (INPUTS, WHOLE.drop_columns(["reason"])),
        ({**INPUTS, "grader": "another"}, WHOLE),
    ],
    ids=["a sample is missing", "another order", "another problem", "other columns", "other inputs"],
)
def test_an_entry_that_is_not_what_its_name_says_is_refused(
    folder: Folder, inputs: dict[str, Any], table: pa.Table
) -> None:
    said: list[str] = []
    keep(folder, inputs, table, said.append)
    (name,) = folder.names()
    asked = f"{fingerprint(INPUTS)}.parquet"
    if name != asked:
        folder.write_bytes(asked, folder.read_bytes(name))
    assert find(folder, INPUTS, PROBLEMS, 2, said.append) is None
    assert said == [f"{folder.path}/{asked} does not hold what its name says and is not used"]


def test_a_torn_file_is_refused_and_can_be_replaced(folder: Folder) -> None:
    said: list[str] = []
    keep(folder, INPUTS, WHOLE, said.append)
    (name,) = folder.names()
    folder.write_bytes(name, folder.read_bytes(name)[:100])
    assert find(folder, INPUTS, PROBLEMS, 2, said.append) is None
    assert len(said) == 1 and "cannot be read and is not used" in said[0]
    keep(folder, INPUTS, WHOLE, said.append, replace=True)
    assert find(folder, INPUTS, PROBLEMS, 2, said.append) == WHOLE


def test_a_folder_that_cannot_be_written_to_is_said_and_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said: list[str] = []
    keep(Folder.at(str(tmp_path / "file" / "cache")), INPUTS, WHOLE, said.append)
    assert len(said) == 1 and "cannot be written to" in said[0]


@pytest.mark.parametrize(
    "setting, variable, path",
    [
        ("/x", "/y", "/x/evaluate"),
        ("auto", "/y", "/y/evaluate"),
        ("auto", None, str(Path("~/.cache/ossft_ray/evaluate").expanduser())),
        ("", "/y", None),
        ("auto", "", None),
    ],
)
def test_where_it_is(monkeypatch: pytest.MonkeyPatch, setting: str, variable: str | None, path: str | None) -> None:
    if variable is None:
        monkeypatch.delenv("OSSFT_CACHE", raising=False)
    else:
        monkeypatch.setenv("OSSFT_CACHE", variable)
    found = cache_folder(setting)
    assert (found.path if found else None) == path


@pytest.mark.parametrize(
    "is_hub_model, commit, is_cached", [(False, None, True), (True, "abc", True), (True, None, False)]
)
def test_a_branch_of_the_hub_is_cached_only_by_its_commit(
    is_hub_model: bool, commit: str | None, is_cached: bool
) -> None:
    chat = Chat(SimpleNamespace(chat_template="t"), 0, 100, commit)
    found = entry_inputs({}, "x", "digest", chat, is_hub_model)
    assert (found is not None) is is_cached
    assert found is None or found["model"]["commit"] == commit
