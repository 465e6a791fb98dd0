"""The sample cache: an entry is used only if it is readable and complete, for the same inputs."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from ossft_ray.common.schema import SAMPLE_SCHEMA, to_table
from ossft_ray.common.storage import Folder
from ossft_ray.common.types import Problem
from ossft_ray.config import resolve
from ossft_ray.policy.chat import Chat
from ossft_ray.stages.evaluate.sample_cache import SampleCache, cache_folder

PROBLEMS = [Problem("a", "1+1?", "2", None), Problem("b", "1+2?", "3", None)]


def samples(*keys: tuple[str, int]) -> pa.Table:
    return to_table([{"problem_id": name, "index": index, "correct": True} for name, index in keys], SAMPLE_SCHEMA)


COMPLETE = samples(("a", 0), ("a", 1), ("b", 0), ("b", 1))


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def cache(tmp_path: Path, notes: list[str]) -> SampleCache:
    return SampleCache(Folder.at(str(tmp_path / "cache")), {"evaluate": {"run": {"seed": 0}}}, notes.append)


def load(cache: SampleCache, benchmark: str = "x", digest: str = "d") -> pa.Table | None:
    return cache.load(benchmark, digest, PROBLEMS, num_samples=2)


def test_stored_samples_are_loaded_for_the_same_inputs_only(cache: SampleCache, notes: list[str]) -> None:
    assert load(cache) is None
    cache.store("x", "d", COMPLETE)
    assert load(cache) == COMPLETE
    assert load(cache, benchmark="y") is None
    assert load(cache, digest="other problems") is None
    assert load(replace(cache, inputs={"evaluate": {"run": {"seed": 1}}})) is None
    assert notes == []


@pytest.mark.parametrize(
    "table",
    [
        samples(("a", 0), ("a", 1), ("b", 0)),
        samples(("b", 0), ("b", 1), ("a", 0), ("a", 1)),
        samples(("a", 0), ("a", 1), ("b", 0), ("c", 1)),
        COMPLETE.drop_columns(["reason"]),
    ],
    ids=["a sample is missing", "another order", "another problem", "other columns"],
)
def test_an_entry_with_other_rows_is_not_used(cache: SampleCache, notes: list[str], table: pa.Table) -> None:
    cache.store("x", "d", table)
    (name,) = cache.folder.names()
    assert load(cache) is None
    assert notes == [f"{cache.folder.path}/{name} does not hold what its name says and is not used"]


def test_a_truncated_file_is_not_used_and_can_be_replaced(cache: SampleCache, notes: list[str]) -> None:
    cache.store("x", "d", COMPLETE)
    (name,) = cache.folder.names()
    cache.folder.write_bytes(name, cache.folder.read_bytes(name)[:100])
    assert load(cache) is None
    assert len(notes) == 1 and "cannot be read and is not used" in notes[0]
    cache.store("x", "d", COMPLETE, replace=True)
    assert load(cache) == COMPLETE


def test_an_unwritable_folder_is_reported_without_failing(tmp_path: Path, notes: list[str]) -> None:
    (tmp_path / "file").write_text("")
    SampleCache(Folder.at(str(tmp_path / "file" / "cache")), {}, notes.append).store("x", "d", COMPLETE)
    assert len(notes) == 1 and "cannot be written to" in notes[0]


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
def test_the_cache_folder(
    monkeypatch: pytest.MonkeyPatch, setting: str, variable: str | None, path: str | None
) -> None:
    if variable is None:
        monkeypatch.delenv("OSSFT_CACHE", raising=False)
    else:
        monkeypatch.setenv("OSSFT_CACHE", variable)
    found = cache_folder(setting)
    assert (found.path if found else None) == path


@pytest.mark.parametrize(
    "model, commit, is_cached",
    [("playground", None, True), ("owner/model", "abc", True), ("owner/model", None, False)],
)
def test_a_hub_model_is_cached_only_if_its_commit_is_known(
    tmp_path: Path, notes: list[str], model: str, commit: str | None, is_cached: bool
) -> None:
    settings: dict[str, Any] = {"policy": {"model": model}, "data": {"path": "p.jsonl"}}
    experiment = resolve({**settings, "evaluate": {"cache": str(tmp_path)}})
    cache = SampleCache.open(experiment, Chat(SimpleNamespace(chat_template="t"), 0, 100, commit), {}, notes.append)
    assert (cache is not None) is is_cached
    assert cache is None or cache.inputs["model"]["commit"] == commit
