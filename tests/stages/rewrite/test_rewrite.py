"""The promises of a rewrite: same rows whatever happens, none twice or missing, growth, refusals, clear errors."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import ray.cloudpickle

from ossft_ray.common.errors import InputError, JobError
from ossft_ray.config import Experiment, resolve
from ossft_ray.method.acceptance import copied_share
from ossft_ray.stages.rewrite.stage import rewrite
from tests.stages import scripted
from tests.stages.scripted import (
    GUIDE,
    CopyingWorker,
    MortalWorker,
    ScriptedWorker,
    StillbornWorker,
    VanishingWorker,
    experiment,
    rows_by_id,
    write_problems,
)

ray.cloudpickle.register_pickle_by_value(scripted)
pytestmark = pytest.mark.usefixtures("ray_cluster")


def run(settings: Any, worker: Any = ScriptedWorker, **keywords: Any) -> dict[str, Any]:
    return rewrite(settings, worker=worker, **keywords)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """The rows of an undisturbed run of 40 problems."""
    settings = experiment(str(tmp_path_factory.mktemp("reference") / "run"))
    run(settings)
    return rows_by_id(settings)


@pytest.mark.parametrize(
    "resources",
    [{"problems_in_flight": 1}, {"num_policies": 2, "problems_in_flight": 3}, {"num_policies": 3, "min_policies": 1}],
    ids=["one by one", "two policies", "a growing pool"],
)
def test_rows_do_not_depend_on_actors_or_concurrency(reference: Any, tmp_path: Path, resources: dict[str, int]) -> None:
    settings = experiment(str(tmp_path / "run"), resources=resources)
    run(settings)
    assert rows_by_id(settings) == reference


def test_an_engine_that_dies_is_started_again_and_the_rows_are_the_same(reference: Any, tmp_path: Path) -> None:
    settings = experiment(str(tmp_path / "run"))
    manifest = run(settings, MortalWorker)
    assert rows_by_id(settings) == reference
    assert manifest["redone_attempts"] > 0, "the cost of the deaths is counted"


def test_engines_that_keep_dying_end_the_job_with_one_line(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"the engine died 3 times in a row without a response: killed"):
        run(experiment(str(tmp_path / "run")), StillbornWorker)


@pytest.mark.long
def test_more_problems_extend_a_finished_run(reference: Any, tmp_path: Path) -> None:
    before = experiment(str(tmp_path / "run"), 24)
    run(before)
    parts = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run/rewrite").glob("part-*")}
    after = experiment(str(tmp_path / "run"), 40)
    manifest = run(after)
    assert rows_by_id(after) == reference
    assert (manifest["problems"], manifest["complete"]) == (40, True)
    kept = {name: (tmp_path / "run/rewrite" / name).stat().st_mtime_ns for name in parts}
    assert kept == parts, "finished parts are left alone"


@pytest.mark.long
def test_a_run_that_grew_has_the_copy_limit_of_one_made_at_once(tmp_path: Path) -> None:
    """A limit that depended on the rows so far would accept other responses in each run."""

    def settings(output: str, num_problems: int) -> Experiment:
        data = tmp_path / f"problems-{num_problems}.jsonl"
        rows = [{"id": f"p{n}", "problem": f"Say {n}.", "answer": "1", "solution": GUIDE} for n in range(num_problems)]
        data.write_text("\n".join(map(json.dumps, rows)))
        guided = {"num_samples": 2, "max_contained": 1.0, "require_derivation": False}
        return resolve(
            {
                "run": {"output": str(tmp_path / output)},
                "policy": {"model": "playground"},
                "data": {"path": str(data), "bad_golds": "ignore"},
                "rewrite": {"self_alignment": {"num_samples": 1}, "guided_alignment": guided},
            }
        )

    run(settings("grown", 12), CopyingWorker)
    grown, whole = settings("grown", 32), settings("whole", 32)
    manifests = [run(each, CopyingWorker) for each in (grown, whole)]
    assert rows_by_id(grown) == rows_by_id(whole)
    assert manifests[0]["reasons"] == manifests[1]["reasons"]
    assert manifests[0]["reasons"]["guided"].keys() == {"correct", "copies_reference"}
    kept = [row["response"] for (row,) in rows_by_id(grown).values() if row["origin"] == "guided"]
    assert 0 < len(kept) < 32
    assert max(copied_share(response, GUIDE, 8) for response in kept) <= grown.rewrite.guided_alignment.max_copied


def test_more_samples_extend_a_finished_run(reference: Any, tmp_path: Path) -> None:
    """The rows are those of a run that asked for all samples at once, and only new samples are drawn."""
    few = {"self_alignment": {"num_samples": 2}, "guided_alignment": {"num_samples": 1}}
    settings = experiment(str(tmp_path / "run"), rewrite=few)
    first = run(settings)
    grown = experiment(str(tmp_path / "run"))
    drawn: list[int] = []
    second = run(grown, on_progress=lambda totals: drawn.append(totals.get("generated_tokens", 0)))
    assert rows_by_id(grown) == reference
    assert second["generated_tokens"] > first["generated_tokens"]
    new_tokens = second["generated_tokens"] - first["generated_tokens"]
    assert max(drawn) < new_tokens + first["generated_tokens"], "earlier samples are not drawn again"
    assert not (tmp_path / "run/rewrite/before").exists()


@pytest.mark.long
def test_dropped_problems_are_recorded_and_not_drawn_again(tmp_path: Path) -> None:
    drop = {"fallback": "drop", "stages": ["self"]}
    settings = experiment(str(tmp_path / "run"), rewrite={**drop, "self_alignment": {"num_samples": 2}})
    first = run(settings)
    assert first["dropped"] > 0
    assert first["dropped"] + first["origins"]["self"] == 40
    second = run(experiment(str(tmp_path / "run"), rewrite=drop))
    fresh = experiment(str(tmp_path / "fresh"), rewrite=drop)
    third = run(fresh)
    assert rows_by_id(settings) == rows_by_id(fresh)
    assert (second["dropped"], second["attempts"]) == (third["dropped"], third["attempts"])


def test_each_kept_response_of_a_problem_is_a_row(tmp_path: Path) -> None:
    settings = experiment(str(tmp_path / "run"), rewrite={"keep_per_problem": 2, "fallback": "drop"})
    manifest = run(settings)
    rows = rows_by_id(settings)
    assert {len(of_problem) for of_problem in rows.values()} == {1, 2}
    assert manifest["examples"] == sum(map(len, rows.values()))
    for of_problem in rows.values():
        right = [
            a["index"] for a in of_problem[0]["attempts"] if a["correct"] and a["stage"] == of_problem[0]["origin"]
        ]
        assert [row["kept_index"] for row in of_problem] == right[:2]
        assert all(row["response"].startswith("right") for row in of_problem)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The output of a finished run of eight problems."""
    output = str(tmp_path_factory.mktemp("finished") / "run")
    run(experiment(output, 8))
    return output


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"run": {"seed": 1}}, r"run\.seed was 0, is now 1"),
        ({"rewrite": {"self_alignment": {"num_samples": 4}}}, r"rewrite\.self_alignment\.num_samples was 8, is now 4"),
        ({"rewrite": {"fallback": "drop"}}, r"rewrite\.fallback"),
        ({"policy": {"engine": {"quantization": "fp8"}}}, r"policy\.engine\.quantization"),
    ],
    ids=["seed", "fewer samples", "fallback", "quantisation"],
)
def test_changed_settings_are_refused_by_key(finished: str, changes: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        run(experiment(finished, 8, **changes))


def test_settings_that_do_not_change_rows_are_never_refused(finished: str) -> None:
    said: list[dict[str, Any]] = []
    changed = experiment(
        finished,
        8,
        train={"loss": "sft"},
        resources={"num_policies": 2, "problems_in_flight": 7},
        policy={"engine": {"tensor_parallel_size": 2, "max_num_seqs": 8}},
        verify={"num_workers": 1},
        evaluate={"num_samples": 2},
    )
    run(changed, on_progress=said.append)
    assert said == [{"already_complete": True}]


def test_a_problem_that_changed_is_refused(finished: str) -> None:
    settings = experiment(finished, 8)
    data = Path(str(settings.data.path))
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    rows[2]["question"] += " Again."
    data.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(InputError, match=rows[2]["id"]):
        run(settings)
    assert Path(finished, "rewrite/manifest.json").exists(), "the finished run stays complete"


def test_an_output_that_vanishes_ends_with_one_line(tmp_path: Path) -> None:
    settings = experiment(str(tmp_path / "run"), 8)
    with pytest.raises(JobError) as caught:
        run(settings, VanishingWorker)
    assert "rewrite" in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run/rewrite/part-00000.parquet").exists()


def test_a_full_disk_ends_with_one_line_and_the_run_resumes_when_there_is_space(reference: Any, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    try:
        settings = experiment(str(tmp_path / "run"))  # writes the problems outside the small disk
        small = settings.model_copy(update={"run": settings.run.model_copy(update={"output": str(disk / "run")})})
        filler = disk / "filler"
        filler.write_bytes(b"0" * 200_000)
        with pytest.raises(JobError, match=r"run: no space is left on the device; free some"):
            run(small)
        filler.unlink()
        run(small)
        assert rows_by_id(small) == reference
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_problems_without_an_answer_keep_the_experts_solution(tmp_path: Path) -> None:
    settings = experiment(str(tmp_path / "run"), 8, data={"no_answer": "expert"})
    data = Path(str(settings.data.path))
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    rows[3]["answer"] = ""
    data.write_text("\n".join(map(json.dumps, rows)))
    manifest = run(settings)
    (row,) = rows_by_id(settings)[rows[3]["id"]]
    assert (row["origin"], row["num_attempts"], row["response"]) == ("expert", 0, rows[3]["expert_solution"])
    assert manifest["problems"] == 8


def test_write_problems_makes_prefixes(tmp_path: Path) -> None:
    """The tests of growth rely on it."""
    write_problems(str(tmp_path / "a"), 24)
    write_problems(str(tmp_path / "b"), 40)
    assert (tmp_path / "b").read_text().startswith((tmp_path / "a").read_text())
