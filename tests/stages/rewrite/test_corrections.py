"""Corrected gold answers: stored attempts are graded again, and only what changed is sampled again."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import ray.cloudpickle

from ossft_ray.common.errors import JobError
from ossft_ray.common.types import Problem
from ossft_ray.config import Experiment, resolve
from ossft_ray.stages.rewrite.stage import rewrite
from tests.stages import scripted
from tests.stages.scripted import DiceWorker, rows_by_id

ray.cloudpickle.register_pickle_by_value(scripted)
pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.long]

GOLDS = ["0", "1", "2", "3", "4", "5"]  # a four-sided die never shows 4 or 5
CORRECTIONS = {1: "2", 4: "0", 7: "5", 11: "1", 12: "3", 30: "4"}  # problem number -> its answer, corrected
NUM_PROBLEMS = 40


def experiment(folder: Path, corrections: dict[int, str], **rewriting: Any) -> Experiment:
    path = folder / "problems.jsonl"
    with path.open("w") as file:
        for number in range(NUM_PROBLEMS):
            answer = corrections.get(number, GOLDS[number % 6])
            # For every other corrected problem, the expert's solution is corrected too.
            stated = answer if number % 2 == 0 else GOLDS[number % 6]
            row = {"id": f"p{number}", "problem": f"Throw {number}.", "answer": answer}
            file.write(json.dumps({**row, "solution": f"It is \\boxed{{{stated}}}."}) + "\n")
    return resolve(
        {
            "run": {"output": str(folder / "run")},
            "policy": {"model": "playground"},
            "data": {"path": str(path), "contamination": "ignore"},
            "rewrite": {"guided_alignment": {"max_copied": 1.0}, **rewriting},
        }
    )


class Draws:
    """The number of tokens that a session sampled."""

    def __init__(self) -> None:
        self.tokens = 0

    def __call__(self, totals: dict[str, Any]) -> None:
        self.tokens = max(self.tokens, totals.get("generated_tokens", 0))


def run(settings: Experiment, worker: Any = DiceWorker) -> tuple[dict[str, Any], int]:
    draws = Draws()
    return rewrite(settings, on_progress=draws, worker=worker), draws.tokens


def run_in(folder: Path, corrections: dict[int, str], **rewriting: Any) -> tuple[Experiment, dict[str, Any], int]:
    """A run with these settings and what `run` returns."""
    settings = experiment(folder, corrections, **rewriting)
    return settings, *run(settings)


@pytest.fixture(scope="module")
def corrected_from_the_start(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run_in(tmp_path_factory.mktemp("fresh"), CORRECTIONS)


@pytest.fixture(scope="module")
def uncorrected(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run_in(tmp_path_factory.mktemp("uncorrected"), {})


@pytest.mark.parametrize(
    "rewriting",
    [{}, {"exhaustive": True, "keep_attempts": True}, {"keep_per_problem": 2, "fallback": "drop"}],
    ids=["early stopping", "all drawn and kept", "two kept, else dropped"],
)
def test_a_corrected_run_has_the_rows_of_a_run_without_mistakes(
    tmp_path: Path, rewriting: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    if rewriting:
        (tmp_path / "fresh").mkdir()
        fresh, expected, all_tokens = run_in(tmp_path / "fresh", CORRECTIONS, **rewriting)
        run_in(tmp_path, {}, **rewriting)
    else:
        fresh, expected, all_tokens = request.getfixturevalue("corrected_from_the_start")
        shutil.copytree(request.getfixturevalue("uncorrected")[0].run.output, tmp_path / "run")
    corrected = experiment(tmp_path, CORRECTIONS, **rewriting)
    manifest, tokens = run(corrected)
    assert rows_by_id(corrected) == rows_by_id(fresh)
    for key in ("origins", "attempts", "generated_tokens", "reasons", "dropped", "golds", "bad_golds", "suspects"):
        assert manifest[key] == expected[key], key
    assert 0 < tokens < all_tokens / 4, "six of forty problems changed"
    assert not (tmp_path / "run/rewrite/before").exists()
    assert run(corrected)[1] == 0, "the run is complete again"


def test_a_correction_during_a_run_applies_to_logged_attempts(tmp_path: Path, corrected_from_the_start: Any) -> None:
    class Interrupted(DiceWorker):
        """Fails when about half of the problems are done: their attempts are logged, and no part is written."""

        async def rewrite(self, problem: Problem, log: Any, progress: Any) -> Any:
            if int(problem.problem_id.removeprefix("p")) in (14, 15, 25, 35):
                raise JobError("enough")
            return await super().rewrite(problem, log, progress)

    with pytest.raises(JobError, match="enough"):
        run(experiment(tmp_path, {}), Interrupted)
    corrected = experiment(tmp_path, CORRECTIONS)
    run(corrected)
    assert rows_by_id(corrected) == rows_by_id(corrected_from_the_start[0])


def test_attempts_that_agree_on_another_answer_make_the_gold_answer_suspect(uncorrected: Any) -> None:
    settings, manifest, _ = uncorrected
    assert manifest["golds"] == {"sound": NUM_PROBLEMS}
    assert 0 < len(manifest["suspects"]) < NUM_PROBLEMS / 2
    rows = rows_by_id(settings)
    for suspect in manifest["suspects"]:
        (row,) = rows[suspect["problem_id"]]
        answers = [
            answer
            for attempt, answer in zip(row["attempts"], row["attempt_answers"], strict=True)
            if attempt["stage"] == "self"
        ]
        assert suspect["answer"] == row["answer"] != suspect["agreed_answer"]
        assert [answers[index] for index in suspect["agreeing"]] == [suspect["agreed_answer"]] * len(
            suspect["agreeing"]
        )
        assert len(suspect["agreeing"]) >= 3 and len(suspect["agreeing"]) > len(answers) / 2
        assert (suspect["num_attempts"], suspect["num_correct"]) == (len(answers), 0)
