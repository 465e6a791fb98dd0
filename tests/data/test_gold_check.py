"""The check of gold answers: a finding for each row, and the treatment of bad ones."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ossft_ray.common.errors import InputError
from ossft_ray.common.storage import Folder
from ossft_ray.config import Experiment, resolve
from ossft_ray.data.gold_check import gold_pool
from ossft_ray.data.problem_index import ProblemIndex
from ossft_ray.data.problems import Rejection
from ossft_ray.data.screening import InputCounts, UsableProblem, screen_problems
from ossft_ray.policy.chat import load_chat
from ossft_ray.run_folder.resolved_run import Run
from ossft_ray.stages.check.stage import check
from ossft_ray.stages.rewrite.ingest import shard_input

# id, answer, expert solution, verifier, finding
ROWS = [
    ("sound", "5", r"So \boxed{5}.", None, "sound"),
    ("words", r"\text{Evelyn}", r"It is \boxed{Evelyn}.", None, "sound"),
    ("silent", "5", "Two and three make five.", None, "not_stated"),
    ("other", "5", r"So \boxed{6}.", None, "contradicted"),
    ("broken", r"\frac{1}{", r"So \boxed{5}.", None, "unparsed"),
    ("odd", "5", r"So \boxed{x^2 + = 5 +}.", None, "solution_unparsed"),
    ("bomb", "5", r"So \boxed{\begin{pmatrix} 1 \\ 2", None, "not_stated"),
    ("units", "5 km", r"So \boxed{5000 m}.", "number", "sound"),
    ("letters", "E", r"So \boxed{B}.", "choice", "unparsed"),  # no such option
    ("alias", '["USA", "US"]', r"\boxed{us}", "text", "sound"),
]
BAD = [row[0] for row in ROWS if row[4] not in ("sound", "not_stated")]


def experiment_on(tmp_path: Path, rows: list[tuple[Any, ...]] = ROWS, **data: Any) -> Experiment:
    path = tmp_path / "problems.jsonl"
    with path.open("w") as file:
        for problem_id, answer, solution, verifier, _ in rows:
            values = {"id": problem_id, "problem": f"{problem_id}: (A) 1 (B) 2", "answer": answer, "solution": solution}
            file.write(json.dumps(values | ({"verifier": verifier} if verifier else {})) + "\n")
    return resolve(
        {
            "run": {"output": str(tmp_path / "run")},
            "policy": {"model": "playground"},
            "data": {"path": str(path), "contamination": "ignore", **data},
            "evaluate": {"benchmarks": ["playground/level1"]},
        }
    )


def screen(experiment: Experiment) -> tuple[list[UsableProblem | Rejection], InputCounts]:
    counts = InputCounts()
    with closing(ProblemIndex()) as seen, gold_pool(experiment) as pool:
        return list(screen_problems(experiment, load_chat(experiment.policy), seen, counts, pool)), counts


@pytest.fixture(scope="module")
def flagged(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[UsableProblem | Rejection], InputCounts]:
    return screen(experiment_on(tmp_path_factory.mktemp("golds")))


@pytest.mark.parametrize(("problem_id", "finding"), [(row[0], row[4]) for row in ROWS])
def test_finding(flagged: tuple[list[UsableProblem | Rejection], InputCounts], problem_id: str, finding: str) -> None:
    items, counts = flagged
    item = next(item for item in items if isinstance(item, UsableProblem) and item.problem.problem_id == problem_id)
    listed = [bad["finding"] for bad in counts.bad_golds if bad["problem_id"] == problem_id]
    assert listed == ([finding] if problem_id in BAD else [])
    assert [note.split(": ")[:2] for note in item.notes] == [["bad_gold", finding] for finding in listed]


def test_findings_are_counted_and_bad_golds_are_listed(
    flagged: tuple[list[UsableProblem | Rejection], InputCounts],
) -> None:
    _, counts = flagged
    assert sum(counts.gold_findings.values()) == len(ROWS)
    findings = counts.gold_findings
    assert (findings["sound"], findings["not_stated"], findings["contradicted"]) == (4, 2, 1)
    contradicted = next(bad for bad in counts.bad_golds if bad["finding"] == "contradicted")
    assert contradicted == {"problem_id": "other", "finding": "contradicted", "answer": "5", "solution_says": "6"}


@pytest.mark.parametrize(
    ("bad_golds", "num_usable", "num_noted", "num_listed"),
    [("keep", 10, 0, 4), ("flag", 10, 4, 4), ("reject", 6, 0, 4), ("ignore", 10, 0, 0)],
)
def test_bad_golds_are_kept_flagged_or_rejected(
    tmp_path: Path, bad_golds: str, num_usable: int, num_noted: int, num_listed: int
) -> None:
    items, counts = screen(experiment_on(tmp_path, bad_golds=bad_golds))
    usable = [item for item in items if isinstance(item, UsableProblem)]
    rejected = [item for item in items if isinstance(item, Rejection)]
    assert (len(usable), sum(bool(item.notes) for item in usable)) == (num_usable, num_noted)
    assert [rejection.problem_id for rejection in rejected] == (BAD if bad_golds == "reject" else [])
    assert all(rejection.reason.startswith("bad_gold: ") for rejection in rejected)
    assert len(counts.bad_golds) == num_listed and counts.problems == num_usable


def test_findings_are_stored_with_the_input(tmp_path: Path) -> None:
    experiment = experiment_on(tmp_path)
    folder = Folder.at(experiment.run.output) / "rewrite"
    layout = shard_input(Run(experiment), folder)
    assert layout.golds["contradicted"] == 1 and len(layout.bad_golds) == len(BAD)
    assert shard_input(Run(experiment), folder) == layout
    (name,) = folder.names("flagged-*.parquet")
    rows = folder.read_table(name).to_pylist()
    assert [row["problem_id"] for row in rows] == BAD
    assert rows[0]["reason"] == "bad_gold: contradicted: the solution says 6"


def test_an_unknown_verifier_rejects_a_row_but_refuses_a_run(tmp_path: Path) -> None:
    experiment = experiment_on(tmp_path, [("a", "5", r"\boxed{5}", "maths", ""), ("b", "5", r"\boxed{5}", None, "")])
    items, _ = screen(experiment)
    assert isinstance(items[0], Rejection) and items[0].reason.startswith("unknown_verifier: 'maths'; kinds: choice")
    with pytest.raises(InputError, match="no verification kind 'maths'"):
        check(experiment.model_copy(update={"verify": experiment.verify.model_copy(update={"kind": "maths"})}))


def test_ossft_check_reports_bad_golds(tmp_path: Path) -> None:
    assert len(check(experiment_on(tmp_path)).counts.bad_golds) == len(BAD)
