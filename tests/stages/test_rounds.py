"""The rounds of `ossft run`: where each writes, which model samples and which is trained, and on which rows."""

from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from ossft_ray.common.errors import InputError
from ossft_ray.common.storage import Folder
from ossft_ray.config import Experiment, resolve
from ossft_ray.run_folder.resolved_run import Run
from ossft_ray.stages.run import _check_problems, _is_outdated, next_round
from tests.stages.scripted import experiment, rewrite_locally, rows_by_id

SETTINGS: dict[str, Any] = {
    "run": {"output": "/runs/x"},
    "policy": {"model": "base", "revision": "v1"},
    "data": {"path": "p.jsonl"},
}
LATER = [(2, "/runs/x/round-2", "/runs/x"), (3, "/runs/x/round-3", "/runs/x/round-2")]


def rounds_until(number: int, first: Experiment) -> tuple[Experiment, Experiment]:
    """The experiments of round `number`'s rewriting and training."""
    sampler = learner = Run(first)
    for each in range(2, number + 1):
        sampler, learner = next_round(Run(first), learner, each)
    return sampler.experiment, learner.experiment


@pytest.mark.parametrize("number, output, before", LATER)
@pytest.mark.parametrize("start_from, problems", [("previous", "all"), ("base", "all"), ("previous", "unsolved")])
def test_a_round_samples_from_the_model_of_the_previous_one(
    number: int, output: str, before: str, start_from: str, problems: str
) -> None:
    first = resolve(SETTINGS | {"loop": {"start_from": start_from, "problems": problems}})
    sampler, learner = rounds_until(number, first)
    trained = (f"{before}/train/model", None)
    assert (sampler.policy.model, sampler.policy.revision) == trained
    assert (learner.policy.model, learner.policy.revision) == (("base", "v1") if start_from == "base" else trained)
    copies = f"{before}/rewrite" if problems == "unsolved" else None
    for current in (sampler, learner):
        assert (current.run.output, current.rewrite.solved_in) == (output, copies)
        unchanged = {"run": first.run, "policy": first.policy, "rewrite": first.rewrite}
        assert current.model_copy(update=unchanged) == first


@pytest.mark.parametrize(
    "start_from, stage, inputs, expected",
    [
        ("previous", "rewrite", None, False),  # nothing is there yet
        ("previous", "rewrite", {"policy_files": "this"}, False),
        ("previous", "rewrite", {"policy_files": "an earlier one"}, True),
        ("previous", "rewrite", {"policy_files": "this", "rewrite": {"solved_in": "these rows"}}, False),
        ("previous", "rewrite", {"policy_files": "this", "rewrite": {"solved_in": "earlier rows"}}, True),
        ("previous", "score", {"model": "this"}, False),
        ("previous", "train", {"model": "an earlier one"}, True),
        ("previous", "train", {"model": "the base"}, False),  # made with start_from = "base": refused, not discarded
        ("previous", "evaluate/base", {"policy_files": "an earlier one"}, True),
        ("base", "rewrite", {"policy_files": "an earlier one"}, True),
        ("base", "train", {"model": "an earlier one"}, False),
    ],
)
def test_a_later_round_starts_over_if_the_previous_rounds_model_or_rows_changed(
    tmp_path: Path, start_from: str, stage: str, inputs: dict[str, Any] | None, expected: bool
) -> None:
    sections = {"run": {"output": str(tmp_path / "round-2")}, "rewrite": {"solved_in": str(tmp_path / "rewrite")}}
    run, first = (Run(resolve(SETTINGS | sections | {"loop": {"start_from": start_from}})) for _ in range(2))
    known = {"source_digests": [], "benchmark_digests": {}}
    vars(run).update(policy_digest="this", **known)
    vars(first).update(policy_digest="the base")
    (Folder.at(str(tmp_path)) / "rewrite").write_json("manifest.json", {"fingerprint": "these rows"})
    if inputs is not None:
        (run.folder / stage).write_json("inputs.json", inputs)
    assert _is_outdated(run, stage.partition("/")[0], first) is expected


@pytest.mark.parametrize(
    "recorded, problems, change",
    [
        ({}, "all", None),
        ({"solved_in": "these rows"}, "unsolved", None),
        ({}, "unsolved", 'loop.problems was "all", is now "unsolved"'),
        ({"solved_in": "these rows"}, "all", 'loop.problems was "unsolved", is now "all"'),
    ],
)
def test_a_later_round_with_other_problems_is_refused_by_the_users_key(
    tmp_path: Path, recorded: dict[str, str], problems: str, change: str | None
) -> None:
    first = Run(resolve(SETTINGS | {"run": {"output": str(tmp_path)}, "loop": {"problems": problems}}))
    sampler, _ = next_round(first, first, 2)
    _check_problems(sampler)  # nothing is there yet
    (sampler.folder / "rewrite").write_json("inputs.json", {"rewrite": recorded})
    with pytest.raises(InputError, match=change) if change else nullcontext():
        _check_problems(sampler)


def test_a_round_of_unsolved_problems_copies_the_rows_of_the_others(tmp_path: Path) -> None:
    few = {"self_alignment": {"num_samples": 3}, "guided_alignment": {"num_samples": 1, "require_derivation": False}}
    first = experiment(str(tmp_path / "run"), 40, rewrite={"keep_per_problem": 2, **few}, run={"seed": 1})
    rewrite_locally(first)
    before = rows_by_id(first)
    solved = {name: rows for name, rows in before.items() if rows[0]["origin"] != "expert"}
    assert 5 < len(solved) < 35 and max(map(len, solved.values())) == 2
    again = first.rewrite.model_copy(update={"solved_in": f"{first.run.output}/rewrite"})
    output = first.run.model_copy(update={"output": f"{first.run.output}/round-2", "seed": 2})
    second = first.model_copy(update={"run": output, "rewrite": again})
    manifest, after = rewrite_locally(second), rows_by_id(second)
    assert after.keys() == before.keys() and {name: after[name] for name in solved} == solved
    made = {name: rows for name, rows in after.items() if name not in solved}
    assert any(rows[0]["origin"] != "expert" for rows in made.values()), "the second round solves some more"
    assert manifest["copied"] == len(solved)
    assert manifest["origins"] == {"self": 0, "guided": 0, "expert": 0} | Counter(
        rows[0]["origin"] for rows in after.values()
    )
    assert manifest["examples"] == sum(map(len, after.values()))
    assert manifest["attempts"] == sum(rows[0]["num_attempts"] for rows in made.values())
    assert manifest["generated_tokens"] == sum(a["num_tokens"] for rows in made.values() for a in rows[0]["attempts"])


def test_a_corrected_problem_is_not_copied(tmp_path: Path) -> None:
    first = experiment(str(tmp_path / "run"), 40)
    rewrite_locally(first)
    solved = {name for name, rows in rows_by_id(first).items() if rows[0]["origin"] != "expert"}
    data = Path(str(first.data.path))
    data.write_text(data.read_text().replace("We know", "We see"))
    again = first.rewrite.model_copy(update={"solved_in": f"{first.run.output}/rewrite"})
    output = first.run.model_copy(update={"output": str(tmp_path / "second")})
    second = first.model_copy(update={"run": output, "rewrite": again})
    manifest, after = rewrite_locally(second), rows_by_id(second)
    corrected = {name for name in solved if "We see" in after[name][0]["expert_solution"]}
    assert corrected and manifest["copied"] == len(solved - corrected)


def test_solved_problems_must_come_from_a_finished_rewrite(tmp_path: Path) -> None:
    nowhere = experiment(str(tmp_path / "run"), 4, rewrite={"solved_in": str(tmp_path)})
    with pytest.raises(InputError, match=r"\[rewrite\] solved_in: .* no complete examples \(no manifest.json\)"):
        rewrite_locally(nowhere)
