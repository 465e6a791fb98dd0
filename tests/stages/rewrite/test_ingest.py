"""Ingestion: sizes of parts, rows that are set aside, growth of the input, and refused changes, which alter nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ossft_ray.common.errors import InputError
from ossft_ray.common.schema import EXAMPLE_SCHEMA, PROBLEM_SCHEMA, REJECTED_SCHEMA, to_table
from ossft_ray.common.storage import Folder
from ossft_ray.config import Experiment, resolve
from ossft_ray.run_folder.names import MANIFEST
from ossft_ray.run_folder.resolved_run import Run
from ossft_ray.stages.rewrite import ingest
from ossft_ray.stages.rewrite.ingest import InputManifest, part_capacity, shard_input

Rows = list[dict[str, Any]]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder.at(str(tmp_path / "run")) / "rewrite"


def good(*numbers: int) -> Rows:
    return [{"id": f"p{n}", "problem": f"question {n}", "answer": str(n), "solution": f"it is {n}"} for n in numbers]


def experiment_on(folder: Path, rows: Rows, name: str = "x.jsonl", **data: Any) -> Experiment:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"path": str(folder / "*.jsonl"), "contamination": "ignore", "max_broken": 1.0, **data}
    return resolve({"policy": {"model": "playground"}, "data": settings})


def ids(folder: Folder, manifest: InputManifest) -> list[list[str]]:
    """The problem ids in each part."""
    tables = [(folder / "problems").read_table(name) for name in manifest.part_names]
    assert all(table.schema == PROBLEM_SCHEMA for table in tables)
    return [table["problem_id"].to_pylist() for table in tables]


def noted(folder: Folder, kind: str) -> list[tuple[str, int, str]]:
    rows = folder.read_tables(f"{kind}-*.parquet", REJECTED_SCHEMA).to_pylist()
    return [(row["problem_id"], row["row"], row["reason"]) for row in rows]


def files(folder: Folder) -> dict[str, bytes]:
    assert folder.local_path is not None
    return {str(file.relative_to(folder.path)): file.read_bytes() for file in folder.local_path.rglob("*.*")}


@pytest.mark.parametrize(
    "number, capacity", [(0, 16), (2047, 16), (2048, 32), (3072, 64), (4095, 64), (4096, 128), (99_999, 128)]
)
def test_capacity_of_parts(number: int, capacity: int) -> None:
    assert part_capacity(number) == capacity


@pytest.mark.thorough
def test_a_large_input_in_parts_of_growing_size(
    tmp_path: Path, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "_PART_SIZES", ((16, 256), (32, 257)))
    numbers = range(256 * 16 + 32 + 128 + 5)
    manifest = shard_input(Run(experiment_on(tmp_path, good(*numbers))), folder)
    parts = ids(folder, manifest)
    assert [len(part) for part in parts] == [16] * 256 + [32, 128, 5]
    assert [name for part in parts for name in part] == [f"p{number}" for number in numbers]
    assert manifest.part_names == sorted(manifest.part_names)
    assert manifest.part_names[-1] == "part-00258.parquet"
    assert (manifest.problems, manifest.num_parts) == (len(numbers), 259)


def test_the_input_manifest_counts_what_was_read(tmp_path: Path, folder: Folder) -> None:
    benchmark = tmp_path / "bench.json"
    benchmark.write_text(json.dumps({"id": "b", "problem": "Question 2?", "answer": "1"}))
    rows = [*good(1, 2, 3), {"problem": ""}, {**good(1)[0], "id": "again"}, *good(3), {"id": "z"}]
    experiment = experiment_on(tmp_path, rows, contamination="report")
    evaluate = experiment.evaluate.model_copy(update={"benchmarks": [str(benchmark), "math500"]})
    manifest = shard_input(Run(experiment.model_copy(update={"evaluate": evaluate})), folder)
    assert manifest == InputManifest(
        problems=4,
        rejected=3,
        rejected_reasons={"no_question": 2, "duplicate_id": 1},
        duplicates=1,
        contamination={str(benchmark): 1},
        not_checked=["math500"],
        num_parts=1,
        sources=manifest.sources,
        golds={"not_stated": 4},
        longest_problem=len("question 1it is 1"),
    )
    assert InputManifest(**folder.read_json("problems.json")) == manifest
    assert ids(folder, manifest) == [["p1", "p2", "p3", "again"]]
    assert noted(folder, "rejected") == [
        ("00000003", 4, "no_question"),
        ("p3", 6, "duplicate_id"),
        ("z", 7, "no_question: no column 'problem' in this row"),
    ]
    assert noted(folder, "flagged") == [
        ("p2", 2, f'contaminated: {benchmark}/b shares "question 2"'),
        ("again", 5, "duplicate_question: same as p1"),
    ]


def test_dropped_duplicates_are_rejected_and_not_flagged(tmp_path: Path, folder: Folder) -> None:
    rows = [*good(1), {**good(1)[0], "id": "again"}]
    manifest = shard_input(Run(experiment_on(tmp_path, rows, duplicates="drop")), folder)
    assert (manifest.problems, manifest.rejected, manifest.duplicates) == (1, 1, 1)
    assert manifest.rejected_reasons == {"duplicate_question": 1}
    assert noted(folder, "rejected") == [("again", 2, "duplicate_question: same as p1")]
    assert noted(folder, "flagged") == []


def test_an_unchanged_input_is_not_read_again(tmp_path: Path, folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = experiment_on(tmp_path, good(1, 2))
    manifest = shard_input(Run(experiment), folder)
    before = files(folder)
    monkeypatch.setattr("ossft_ray.stages.rewrite.ingest.screen_problems", None)
    assert shard_input(Run(experiment), folder) == manifest
    assert files(folder) == before


def grow_by_appending(folder: Path, rows: Rows) -> dict[str, Any]:
    with (folder / "x.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return {}


def grow_by_a_file_after(folder: Path, rows: Rows) -> dict[str, Any]:
    experiment_on(folder, rows, "y.jsonl")
    return {}


def grow_by_a_file_before(folder: Path, rows: Rows) -> dict[str, Any]:
    experiment_on(folder, rows, "a.jsonl")
    return {}


@pytest.mark.parametrize("grow", [grow_by_appending, grow_by_a_file_after, grow_by_a_file_before])
def test_new_problems_follow_in_new_parts(
    tmp_path: Path, folder: Folder, grow: Callable[[Path, Rows], dict[str, Any]]
) -> None:
    experiment = experiment_on(tmp_path, [*good(*range(20)), {"id": "bad"}])
    first = shard_input(Run(experiment), folder)
    before = files(folder)
    grow(tmp_path, [*good(*range(100, 118)), {"id": "worse"}, {**good(3)[0], "id": "same"}])
    second = shard_input(Run(experiment), folder)
    assert (first.problems, first.num_parts) == (20, 2)
    assert (second.problems, second.num_parts, second.rejected, second.duplicates) == (39, 4, 2, 1)
    added = [f"p{number}" for number in range(100, 118)] + ["same"]
    assert ids(folder, second) == [*ids(folder, first), added[:16], added[16:]]
    after = files(folder)
    assert all(after[f"problems/{name}"] == before[f"problems/{name}"] for name in first.part_names)
    assert sorted(name for name, *_ in noted(folder, "rejected")) == ["bad", "worse"]
    assert [(name, reason) for name, _, reason in noted(folder, "flagged")] == [
        ("same", "duplicate_question: same as p3")
    ]
    assert shard_input(Run(experiment), folder) == second


def test_a_larger_limit_lets_more_in(tmp_path: Path, folder: Folder) -> None:
    rows = good(*range(50))
    for limit, sizes in [(20, [16, 4]), (30, [16, 4, 10]), (None, [16, 4, 10, 16, 4]), (60, [16, 4, 10, 16, 4])]:
        manifest = shard_input(Run(experiment_on(tmp_path, rows, limit=limit)), folder)
        assert [len(part) for part in ids(folder, manifest)] == sizes
    assert [name for part in ids(folder, manifest) for name in part] == [f"p{number}" for number in range(50)]


def test_rows_without_ids_may_be_added_at_the_end(tmp_path: Path, folder: Folder) -> None:
    rows = [{**row, "id": None} for row in good(*range(5))]
    shard_input(Run(experiment_on(tmp_path, rows[:3])), folder)
    manifest = shard_input(Run(experiment_on(tmp_path, rows)), folder)
    assert ids(folder, manifest) == [["00000000", "00000001", "00000002"], ["00000003", "00000004"]]
    with pytest.raises(InputError, match=r"x\.jsonl, row 1: problem '00000000' asks a different question"):
        shard_input(Run(experiment_on(tmp_path, rows[::-1])), folder)


def test_rejected_rows_that_were_fixed_are_added(tmp_path: Path, folder: Folder) -> None:
    spoilt = {**good(2)[0], "answer": ""}
    first = shard_input(Run(experiment_on(tmp_path, [*good(1), spoilt, *good(3)])), folder)
    assert (first.rejected, len(folder.names("rejected-*"))) == (1, 1)
    second = shard_input(Run(experiment_on(tmp_path, good(1, 2, 3))), folder)
    assert ids(folder, second) == [["p1", "p3"], ["p2"]]
    assert (second.rejected, folder.names("rejected-*")) == (0, [])


CHANGED = {**good(2)[0], "problem": "another"}


def test_a_corrected_problem_stays_in_its_part(tmp_path: Path, folder: Folder) -> None:
    old = good(*range(20))
    shard_input(Run(experiment_on(tmp_path, old)), folder)
    for name in ("part-00000.parquet", "part-00001.parquet"):
        folder.write_table(name, to_table([], EXAMPLE_SCHEMA))  # finished parts of examples
    folder.write_json(MANIFEST, {})
    corrected = {**good(17)[0], "answer": "7", "solution": "so 7"}
    manifest = shard_input(Run(experiment_on(tmp_path, [*old[:17], corrected, *old[18:], *good(99)])), folder)
    assert ids(folder, manifest)[:2] == [[f"p{n}" for n in range(16)], [f"p{n}" for n in range(16, 20)]]
    row = (folder / "problems").read_table("part-00001.parquet").to_pylist()[1]
    assert (row["answer"], row["expert_solution"]) == ("7", "so 7")
    assert folder.names("part-*.parquet") == ["part-00000.parquet"], "a part without corrections stays"
    assert (folder / "before").names() == ["part-00001.parquet"]
    assert not folder.exists(MANIFEST)


@pytest.mark.parametrize(
    "rows, words",
    [
        ([*good(1), CHANGED, *good(3)], "x.jsonl, row 2: problem 'p2' asks a different question from the"),
        ([*good(*range(100, 200)), CHANGED], "x.jsonl, row 101: problem 'p2' asks a different question"),
        (good(1, 3), "problem 'p2' of "),
        (good(3, 100), "problem 'p1' of "),
        ([{**good(1)[0], "problem": ""}, *good(2, 3)], "problem 'p1' of "),
        ([], "holds no usable problem; it is empty"),
    ],
    ids=["changed", "changed late", "one gone", "first of two gone", "spoilt", "all gone"],
)
def test_a_sharded_problem_may_neither_change_nor_disappear(
    tmp_path: Path, folder: Folder, rows: Rows, words: str
) -> None:
    old = [*good(1, 2, 3), {"id": "bad"}, {**good(1)[0], "id": "same"}]
    manifest = shard_input(Run(experiment_on(tmp_path, old)), folder)
    before = files(folder)
    same = [{**good(1)[0], "id": "same"}] if rows else []
    with pytest.raises(InputError) as caught:
        shard_input(Run(experiment_on(tmp_path, [*rows, *same])), folder)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    after = files(folder)
    assert {name: after[name] for name in before} == before, "existing files stay, with rejected and flagged rows"
    assert shard_input(Run(experiment_on(tmp_path, old)), folder) == manifest, "the old input still works"
    grown = shard_input(Run(experiment_on(tmp_path, [*old, *good(7)])), folder)
    assert ids(folder, grown) == [["p1", "p2", "p3", "same"], ["p7"]]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("has_earlier_input", [False, True])
@pytest.mark.parametrize("num_writes", range(7))
def test_a_run_killed_at_any_write_can_be_resumed(
    tmp_path: Path,
    folder: Folder,
    monkeypatch: pytest.MonkeyPatch,
    has_earlier_input: bool,
    num_writes: int,
) -> None:
    old, new = [*good(*range(20)), {"id": "bad"}], [*good(*range(60)), {"id": "bad"}, {"id": "worse"}]
    if has_earlier_input:
        shard_input(Run(experiment_on(tmp_path, old)), folder)
    left = iter(range(num_writes))
    write_bytes = Folder.write_bytes

    def write_or_die(self: Folder, name: str, content: bytes) -> None:
        if self.path.startswith(str(tmp_path)) and next(left, None) is None:
            raise Killed
        write_bytes(self, name, content)

    experiment = experiment_on(tmp_path, new)
    monkeypatch.setattr(Folder, "write_bytes", write_or_die)
    # Four parts, or three that follow two earlier ones; the rejected rows; problems.json.
    num_all = 5 if has_earlier_input else 6
    if num_writes < num_all:
        with pytest.raises(Killed):
            shard_input(Run(experiment), folder)
    monkeypatch.setattr(Folder, "write_bytes", write_bytes)
    if has_earlier_input and num_writes < num_all:
        resumed = shard_input(Run(experiment_on(tmp_path, old)), folder)
        assert ids(folder, resumed) == [[f"p{n}" for n in range(16)], [f"p{n}" for n in range(16, 20)]]
        experiment = experiment_on(tmp_path, new)
    manifest = shard_input(Run(experiment), folder)
    sizes = [16, 4, 16, 16, 8] if has_earlier_input else [16, 16, 16, 12]
    assert [len(part) for part in ids(folder, manifest)] == sizes
    assert [name for part in ids(folder, manifest) for name in part] == [f"p{number}" for number in range(60)]
    assert [name for name, *_ in noted(folder, "rejected")] == ["bad", "worse"]


def test_parts_beyond_the_manifest_do_not_count(tmp_path: Path, folder: Folder) -> None:
    shard_input(Run(experiment_on(tmp_path, good(*range(40)))), folder)
    folder.filesystem.delete_file(f"{folder.path}/problems.json")
    manifest = shard_input(Run(experiment_on(tmp_path, good(*range(100, 120)))), folder)
    assert [len(part) for part in ids(folder, manifest)] == [16, 4]
    grown = shard_input(Run(experiment_on(tmp_path, good(*range(100, 130)))), folder)
    assert [name for part in ids(folder, grown) for name in part] == [f"p{number}" for number in range(100, 130)]


def test_a_changed_benchmark_is_compared_again(tmp_path: Path, folder: Folder) -> None:
    experiment = experiment_on(tmp_path, good(1, 2), contamination="report")
    counts = []
    for question in ("question 1", "other"):
        (tmp_path / "bench.json").write_text(json.dumps({"problem": question, "answer": "1"}))
        evaluate = experiment.evaluate.model_copy(update={"benchmarks": [str(tmp_path / "bench.json")]})
        manifest = shard_input(Run(experiment.model_copy(update={"evaluate": evaluate})), folder)
        counts.append((*manifest.contamination.values(), len(noted(folder, "flagged")), manifest.num_parts))
    assert counts == [(1, 1, 1), (0, 0, 1)]


def test_many_rejected_rows(tmp_path: Path, folder: Folder) -> None:
    rows = [*good(1), *({"id": f"bad{number}"} for number in range(2500))]
    manifest = shard_input(Run(experiment_on(tmp_path, rows)), folder)
    assert (manifest.problems, manifest.rejected) == (1, 2500)
    assert folder.names("rejected-*") == [f"rejected-{number:05d}.parquet" for number in range(3)]
    assert [name for name, *_ in noted(folder, "rejected")] == [f"bad{number}" for number in range(2500)]


@pytest.mark.parametrize("data", [{"duplicates": "drop"}, {"no_answer": "expert"}], ids=["duplicates", "no answer"])
def test_an_unusable_input_leaves_no_files(tmp_path: Path, folder: Folder, data: dict[str, str]) -> None:
    with pytest.raises(InputError, match="holds no usable problem"):
        shard_input(Run(experiment_on(tmp_path, [{**good(1)[0], "problem": ""}] * 3, **data)), folder)
    assert not folder.exists()


def test_rows_without_an_answer_may_be_kept_for_the_expert(tmp_path: Path, folder: Folder) -> None:
    rows = [*good(1), {**good(2)[0], "answer": "proof"}]
    manifest = shard_input(Run(experiment_on(tmp_path, rows, no_answer="expert")), folder)
    table = (folder / "problems").read_table("part-00000.parquet")
    assert (manifest.problems, table["answer"].to_pylist()) == (2, ["1", ""])
