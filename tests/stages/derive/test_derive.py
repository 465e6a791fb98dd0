"""Derived runs: the rows of a fresh run with those settings, what was never sampled, refusals, and the table."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ossft_ray.common.errors import InputError
from ossft_ray.common.storage import Folder
from ossft_ray.common.types import Attempt, Problem, Response
from ossft_ray.common.verdict import PROMPT_TOO_LONG
from ossft_ray.config import Experiment, Rewrite
from ossft_ray.export import export
from ossft_ray.report import report_runs
from ossft_ray.run_folder.resolved_run import Run
from ossft_ray.run_folder.stage_folder import fingerprint
from ossft_ray.stages.derive import derive
from ossft_ray.stages.derive.ablations import ablations
from ossft_ray.stages.derive.comparison import compare_ablations
from ossft_ray.stages.derive.replay import Replayed, replay_problem
from ossft_ray.stages.rewrite.inputs import rewrite_inputs
from tests.stages.rows import write_scores
from tests.stages.scripted import experiment, rewrite_locally, rows_by_id

Rows = dict[str, list[dict[str, Any]]]
KEPT = {"keep_attempts": True, "keep_per_problem": 2}
EXHAUSTIVE = {**KEPT, "exhaustive": True}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run of 40 problems with every sample of its stages."""
    output = str(tmp_path_factory.mktemp("source") / "run")
    rewrite_locally(scripted(output, **EXHAUSTIVE))
    return output


@pytest.fixture(scope="module")
def thrifty(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same run in waves, so without samples that were not needed."""
    output = str(tmp_path_factory.mktemp("thrifty") / "run")
    rewrite_locally(scripted(output, **KEPT))
    return output


def scripted(output: str, num_problems: int = 40, **rewrite: Any) -> Experiment:
    return experiment(output, num_problems, data={"bad_golds": "ignore"}, rewrite=rewrite)


def fresh_rows(path: Path, **rewrite: Any) -> tuple[Rows, dict[str, Any]]:
    settings = scripted(str(path / "fresh"), **rewrite)
    manifest = rewrite_locally(settings)
    return rows_by_id(settings), manifest


def derived_rows(output: Path) -> Rows:
    return rows_by_id(experiment(str(output)))


@pytest.mark.parametrize(
    ("ablation", "changes"),
    [
        ("full", {}),
        ("no_guided", {"stages": ["self"]}),
        ("rejection_sampling", {"stages": ["self"], "fallback": "drop"}),
        ("experts", {"stages": []}),
    ],
)
@pytest.mark.parametrize("run", ["source", "thrifty"])
def test_derived_rows_are_those_of_a_fresh_run(
    run: str, ablation: str, changes: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    settings, output = EXHAUSTIVE if run == "source" else KEPT, request.getfixturevalue(run)
    manifest = derive(output, str(tmp_path / "new"), ablation)
    rows, fresh = fresh_rows(tmp_path, **settings, **changes)
    assert derived_rows(tmp_path / "new") == rows
    same = ("problems", "rejected", "origins", "dropped", "examples", "attempts", "generated_tokens", "prompt_tokens")
    assert {name: manifest[name] for name in (*same, "reasons")} == {name: fresh[name] for name in (*same, "reasons")}
    assert manifest["derived"]["not_sampled"] == {}
    inputs = rewrite_inputs(Run(scripted(output, **settings, **changes)))
    assert manifest["fingerprint"] == fingerprint(inputs), "so `ossft rewrite` takes the stage as complete"


@pytest.mark.parametrize("run", ["source", "thrifty"])
@pytest.mark.parametrize("number", [1, 3])
def test_fewer_self_samples_change_only_problems_whose_guided_stage_was_never_sampled(
    run: str, number: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    settings = EXHAUSTIVE if run == "source" else KEPT
    manifest = derive(request.getfixturevalue(run), str(tmp_path / "new"), f"self_{number}")
    derived = derived_rows(tmp_path / "new")
    fresh, _ = fresh_rows(tmp_path, **settings, self_alignment={"num_samples": number})
    other = {name for name in fresh if derived[name] != fresh[name]}
    solved_later = {
        name for name, rows in full_rows(request.getfixturevalue(run)).items() if is_solved_after(rows, number)
    }
    assert other == solved_later, "every other problem has the rows of a fresh run"
    assert manifest["derived"]["not_sampled"] == {"guided": len(solved_later)} and solved_later
    assert {row["origin"] for name in other for row in derived[name]} == {"expert"}


def full_rows(output: str) -> Rows:
    return rows_by_id(experiment(output))


def is_solved_after(rows: list[dict[str, Any]], number: int) -> bool:
    return rows[0]["origin"] == "self" and rows[0]["kept_index"] >= number


def test_without_the_self_stage_its_problems_fall_back_or_are_dropped(thrifty: str, tmp_path: Path) -> None:
    solved = sum(rows[0]["origin"] == "self" for rows in full_rows(thrifty).values())
    fell_back = derive(thrifty, str(tmp_path / "a"), "no_self")
    dropped = derive(thrifty, str(tmp_path / "b"), "no_self", unsampled="drop")
    assert fell_back["derived"]["not_sampled"] == dropped["derived"]["not_sampled"] == {"guided": solved}
    assert (fell_back["dropped"], dropped["dropped"]) == (0, solved)
    assert dropped["origins"]["expert"] == fell_back["origins"]["expert"] - solved
    assert dropped["origins"]["guided"] == fell_back["origins"]["guided"] > 0
    inputs = json.loads((tmp_path / "a/rewrite/inputs.json").read_text())
    assert inputs["derived"]["ablation"] == "no_self", "no rewrite could have made these rows, and none may add to them"


def test_expert_solutions_that_the_verifier_refuses_are_dropped(tmp_path: Path) -> None:
    settings = scripted(str(tmp_path / "run"), 8)
    data = Path(str(settings.data.path))
    first, *others = [json.loads(line) for line in data.read_text().splitlines()]
    data.write_text("".join(json.dumps(row) + "\n" for row in [first | {"answer": "-12345"}, *others]))
    rewrite_locally(settings)
    manifest = derive(str(tmp_path / "run"), str(tmp_path / "new"), "verified_experts")
    rows = derived_rows(tmp_path / "new")
    assert (manifest["dropped"], manifest["origins"]) == (1, {"self": 0, "guided": 0, "expert": 7})
    assert {row["response"] for of_problem in rows.values() for row in of_problem} == {
        row["expert_solution"] for row in others
    }


def test_a_derived_run_is_a_run_like_any_other(thrifty: str, tmp_path: Path) -> None:
    new = str(tmp_path / "new")
    manifest = derive(thrifty, new, "no_guided")
    written = derived_config(new)
    assert written["experiment"]["rewrite"]["stages"] == ["self"]
    assert written["experiment"]["run"]["output"] == new
    assert manifest["derived"]["from"] == thrifty
    exported = export(new, "trl", str(tmp_path / "export"), license="mit")
    assert exported.num_rows == manifest["examples"]
    assert "self" in Path(report_runs([new])).read_text()
    again = derive(new, str(tmp_path / "again"), "rejection_sampling")
    assert again["origins"]["self"] == manifest["origins"]["self"] > 0


def derived_config(output: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(output) / "config.json").read_text())
    return found


def test_settings_come_from_the_rows_not_from_a_later_command(source: str, tmp_path: Path) -> None:
    copy = Folder.at(str(tmp_path / "copy"))
    for path in Path(source).rglob("*"):
        if path.is_file():
            copy.filesystem.create_dir(str(tmp_path / "copy" / path.relative_to(source).parent), recursive=True)
            (tmp_path / "copy" / path.relative_to(source)).write_bytes(path.read_bytes())
    config = derived_config(str(tmp_path / "copy"))
    config["experiment"]["rewrite"] |= {"keep_per_problem": 1, "exhaustive": False}
    (tmp_path / "copy/config.json").write_text(json.dumps(config))
    derive(str(tmp_path / "copy"), str(tmp_path / "new"), "full")
    assert derived_rows(tmp_path / "new") == full_rows(source)


def test_a_killed_derivation_can_be_repeated(thrifty: str, tmp_path: Path) -> None:
    new = tmp_path / "new"
    derive(thrifty, str(new), "no_self")
    rows = derived_rows(new)
    (new / "rewrite/manifest.json").unlink()
    (new / "rewrite/part-00001.parquet").unlink()
    (new / "rewrite/part-00099.parquet").write_bytes(b"torn")
    derive(thrifty, str(new), "no_self")
    assert derived_rows(new) == rows


@pytest.mark.parametrize(
    ("ablation", "said"),
    [
        ("self_16", r"drew at most 8 self samples .*num_samples=16"),
        ("no_expert", r"no such ablation of .*; choose one of full, self_1, .*verified_experts"),
    ],
)
def test_unknown_ablations_are_refused(thrifty: str, tmp_path: Path, ablation: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        derive(thrifty, str(tmp_path / "new"), ablation)
    assert not (tmp_path / "new").exists()


def test_other_refusals(thrifty: str, tmp_path: Path) -> None:
    new = tmp_path / "new"
    new.mkdir()
    (new / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="new: exists already; choose another folder"):
        derive(thrifty, str(new), "full")
    rewrite_locally(scripted(str(tmp_path / "plain"), 8, stages=[]))
    with pytest.raises(InputError, match=r"made no attempts .*; choose one of experts, verified_experts"):
        derive(str(tmp_path / "plain"), str(tmp_path / "other"), "no_guided")
    (tmp_path / "plain/rewrite/manifest.json").unlink()
    with pytest.raises(InputError, match="not complete; let `ossft rewrite` finish it"):
        derive(str(tmp_path / "plain"), str(tmp_path / "other"), "experts")


def test_the_table_agrees_with_the_runs_that_it_describes(thrifty: str, tmp_path: Path) -> None:
    compared = {figures.name: figures for figures in compare_ablations(thrifty)}
    for name in ("full", "self_2", "no_self", "rejection_sampling"):
        manifest = derive(thrifty, str(tmp_path / name), name)
        figures = compared[name]
        assert figures.rows == manifest["examples"]
        assert {origin: figures.problems[origin] for origin in manifest["origins"]} == manifest["origins"]
        assert figures.problems["dropped"] == manifest["dropped"]
        assert figures.not_sampled == sum(manifest["derived"]["not_sampled"].values())
    assert {figures.scored for figures in compared.values()} == {0}


def test_the_gap_of_each_ablation_is_that_of_its_rows(tmp_path: Path) -> None:
    settings = scripted(str(tmp_path / "run"), 16)
    manifest = rewrite_locally(settings)
    chat, output = Run(settings).chat, settings.run.output
    rows = [row for of_problem in rows_by_id(settings).values() for row in of_problem]
    scored = [row | {"response_token_ids": chat.close_turn(row["response_token_ids"])} for row in rows]
    write_scores(output, scored)
    folder = Folder.at(output) / "score"
    folder.write_json("inputs.json", {"rewrite": "of other rows"})
    assert {figures.scored for figures in compare_ablations(output)} == {0}
    folder.write_json("inputs.json", {"rewrite": manifest["fingerprint"]})
    compared = {figures.name: figures for figures in compare_ablations(output)}
    for name, of_ablation in (("full", scored), ("rejection_sampling", [r for r in scored if r["origin"] == "self"])):
        figures, lengths = compared[name], [len(row["response_token_ids"]) for row in of_ablation]
        assert figures.scored == figures.rows == len(lengths) > 0
        assert figures.gap.tokens == sum(lengths)
        assert figures.gap.logprob == pytest.approx(-0.01 * sum(n * (n + 1) / 2 for n in lengths))


def replay(attempts: list[Attempt], name: str, **rewrite: Any) -> Replayed:
    settings = Rewrite(**rewrite)
    by_draw = {(attempt.stage, attempt.index): attempt for attempt in attempts}

    async def verify(problem: Problem, response: str) -> Any:
        raise AssertionError("nothing is graded again")

    problem = Problem("p", "q", "1", "s")
    return asyncio.run(replay_problem(problem, by_draw, ablations(settings)[name], settings, verify))


def test_a_prompt_that_was_too_long_skips_its_stage_again() -> None:
    too_long = Attempt("self", 0, False, PROMPT_TOO_LONG, PROMPT_TOO_LONG, 0)
    right = Attempt("guided", 0, True, "correct", "stop", 2, Response("right", [1, 2], "stop"))
    replayed = replay([too_long, right], "full")
    assert (replayed.result.origin, replayed.result.attempts) == ("guided", [too_long, right])
    assert replayed.not_sampled is None


def test_a_response_without_its_tokens_is_not_kept() -> None:
    right = Attempt("self", 0, True, "correct", "stop", 2, Response("right", [], "stop"))
    with pytest.raises(InputError, match="problem p: the tokens of attempt self/0 are not recorded"):
        replay([right], "full")


def test_the_table_doubles_sample_counts_beyond_eight() -> None:
    names = [name for name in ablations(Rewrite(self_alignment={"num_samples": 40})) if name.startswith("self_")]
    assert names == [f"self_{number}" for number in (1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 40)]


def test_derive_on_the_command_line(thrifty: str, tmp_path: Path, command: Callable[[str], Callable[..., str]]) -> None:
    table = command("derive")(thrifty)
    assert "verified_experts" in table and "sampled" in table and "run `ossft score` first" in table
    said = command("derive")(thrifty, str(tmp_path / "new"), "--ablation", "no_self")
    assert "which that run did not sample for them, and fell back" in said
    assert "give both NEW and --ablation" in command("derive")(thrifty, "--ablation", "no_self", code=2)
    assert "exists already" in command("derive")(thrifty, str(tmp_path / "new"), "--ablation", "no_self", code=2)
