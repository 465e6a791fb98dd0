"""`ossft check --probe`: what a probe foretells of the playground is what the whole run then takes."""

import json
from pathlib import Path
from typing import Any

import pytest

from ossft_ray.common.errors import InputError
from ossft_ray.common.schema import EXAMPLE_SCHEMA, to_table
from ossft_ray.common.storage import Folder
from ossft_ray.config import Experiment, resolve
from ossft_ray.playground.arithmetic import training_problems
from ossft_ray.stages.check.estimate import Interval
from ossft_ray.stages.check.probe import _write_batches, probe, probe_experiment
from ossft_ray.stages.check.probed_rows import probed_problems
from ossft_ray.stages.check.stage import check
from ossft_ray.stages.train.training_examples import load_training_examples

NUM_PROBLEMS, NUM_PROBED = 240, 48
# a busy machine may well be so much faster or slower a minute later
SECONDS_FACTOR = 2.5


def experiment_on(folder: Path, num_problems: int = NUM_PROBLEMS, **train: Any) -> Experiment:
    data = folder / "problems.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in training_problems(num_problems)))
    return resolve(
        {
            "run": {"output": str(folder / "run")},
            "policy": {"model": "playground"},
            "data": {"path": str(data), "columns": {"question": "question", "expert_solution": "expert_solution"}},
            "rewrite": {
                "self_alignment": {"num_samples": 4, "max_tokens": 96},
                "guided_alignment": {"num_samples": 2, "max_tokens": 96},
            },
            "train": {"global_batch_size": 32, "precision": "fp32", "max_length": 512, **train},
            "evaluate": {"benchmarks": ["playground/level1"], "num_samples": 2, "max_tokens": 96},
        }
    )


def within(found: Interval, actual: float, factor: float = 1.0) -> bool:
    return found.low / factor <= actual <= found.high * factor


@pytest.mark.long
def test_the_whole_run_takes_what_the_probe_foretold(tmp_path: Path, ray_cluster: None) -> None:
    from ossft_ray.stages.rewrite.stage import rewrite
    from ossft_ray.stages.train.stage import train

    experiment = experiment_on(tmp_path)
    findings = check(experiment, NUM_PROBED)
    foretold = probe(experiment, findings)
    assert (foretold.sampled, foretold.population) == (NUM_PROBED, NUM_PROBLEMS)

    rewritten, trained = rewrite(experiment), train(experiment)
    told = {
        "generated tokens": (foretold.generated_tokens, rewritten["generated_tokens"]),
        "attempts": (foretold.attempts, rewritten["attempts"]),
        "prompt tokens": (foretold.prompt_tokens, rewritten["prompt_tokens"]),
        "response tokens": (foretold.response_tokens, trained["response_tokens"]),
        **{name: (foretold.funnel[name][1], count) for name, count in rewritten["origins"].items()},
    }
    assert {name: pair for name, pair in told.items() if not within(*pair)} == {}
    assert foretold.steps.value == trained["steps"] == 8

    seconds = {stage.name: stage.seconds for stage in foretold.stages}
    assert seconds.keys() == {"rewrite", "score", "train", "evaluate"}
    spent = rewritten["phases"]["reading data"] + rewritten["phases"]["rewriting"]
    assert within(seconds["rewrite"], spent, SECONDS_FACTOR), (seconds["rewrite"], spent)
    assert trained["seconds"] < seconds["train"].high * SECONDS_FACTOR

    # the sample's draws are the run's own
    whole = {row["problem_id"]: row["response"] for row in rows_of(experiment)}
    sample = {row["problem_id"]: row["response"] for row in rows_of(probe_experiment(experiment))}
    assert len(sample) == NUM_PROBED
    assert sample.items() <= whole.items()

    # what was measured is kept and serves again; what fills the disk is gone
    begun: list[str] = []
    again = probe(experiment, findings, on_stage=lambda name: begun.append(name) or (lambda totals: None))  # type: ignore[func-returns-value]
    assert (again, begun) == (foretold, ["probe"])
    assert not (tmp_path / "run" / "probe" / "train").exists()
    assert foretold.disk["model"] > 10**6 and foretold.disk["checkpoints"] > 10**6
    assert foretold.policy_memory > 10**8 and foretold.train_memory > 10**8


def rows_of(experiment: Experiment) -> list[dict[str, Any]]:
    rewritten = Folder.at(experiment.run.output) / "rewrite"
    rows: list[dict[str, Any]] = rewritten.read_tables("part-*.parquet", EXAMPLE_SCHEMA).to_pylist()
    return rows


def test_the_sample_is_drawn_by_the_seed_and_not_from_the_top(tmp_path: Path) -> None:
    experiment = experiment_on(tmp_path, 60)
    ids = [problem.problem_id for problem in check(experiment, 12).sample]
    assert len(set(ids)) == 12
    assert ids == [problem.problem_id for problem in check(experiment, 12).sample]
    assert ids != [problem.problem_id for problem in check(experiment, 60).sample][:12]
    other = experiment.model_copy(update={"run": experiment.run.model_copy(update={"seed": 1})})
    assert ids != [problem.problem_id for problem in check(other, 12).sample]
    assert check(experiment).sample == []


def test_another_runs_examples_cannot_be_probed(tmp_path: Path) -> None:
    experiment = experiment_on(tmp_path, 3, examples="other/rewrite")
    with pytest.raises(InputError, match=r"\[train\] examples: .* leave the key out"):
        probe(experiment, check(experiment, 2))


def attempt(stage: str, index: int, correct: bool, num_tokens: int) -> dict[str, Any]:
    return {"stage": stage, "index": index, "correct": correct, "reason": "", "num_tokens": num_tokens}


def example(problem_id: str, origin: str, tokens: int, attempts: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "problem_id": problem_id,
        "prompt": [{"role": "user", "content": "?"}],
        "response": "",
        "response_token_ids": [5] * tokens,
        "origin": origin,
        "attempts": attempts,
        "policy": "playground",
    }


@pytest.fixture
def rewritten(tmp_path: Path) -> Folder:
    folder = Folder.at(str(tmp_path / "rewrite"))
    rows = [
        example("a", "self", 10, [attempt("self", 0, False, 7), attempt("self", 1, True, 10)]),
        example("b", "expert", 900, [attempt("self", 0, False, 96), attempt("guided", 0, False, 4)]),
    ]
    folder.write_table("part-00000.parquet", to_table(rows, EXAMPLE_SCHEMA))
    folder.write_json("manifest.json", {"fingerprint": "f"})
    return folder


def test_rows_become_what_the_estimate_is_made_of(tmp_path: Path, rewritten: Folder) -> None:
    solved, long = probed_problems(rewritten, experiment_on(tmp_path, 3))
    assert (solved.origin, solved.first_draws, solved.first_tokens) == ("self", {"self": False}, 7)
    assert (solved.num_attempts, solved.generated_tokens, solved.num_examples, solved.response_tokens) == (2, 17, 1, 10)
    assert (long.origin, long.first_draws) == ("expert", {"self": False, "guided": False})
    assert (long.num_examples, long.num_too_long, long.response_tokens) == (0, 1, 0)


def test_batches_are_whole_and_of_examples_that_fit(tmp_path: Path, rewritten: Folder) -> None:
    experiment, target = experiment_on(tmp_path, 3), Folder.at(str(tmp_path / "batches"))
    _write_batches(experiment, rewritten, target, 96)
    from ossft_ray.policy.chat import load_chat

    examples = load_training_examples(target, load_chat(experiment.policy), experiment).examples
    assert examples.problem_ids == ["a"] * 96
    assert target.read_json("manifest.json")["fingerprint"] == "f"
