"""`ossft check --probe` on the playground: its forecast against the whole run."""

import json
from pathlib import Path
from typing import Any

import pytest

from ossft_ray.common.errors import InputError
from ossft_ray.common.schema import EXAMPLE_SCHEMA, to_table
from ossft_ray.common.storage import Folder
from ossft_ray.config import Experiment, resolve
from ossft_ray.distributed.progress import OnProgress
from ossft_ray.playground.arithmetic import training_problems
from ossft_ray.policy.chat import load_chat
from ossft_ray.run_folder.resolved_run import Run
from ossft_ray.stages.check.forecast import Forecast
from ossft_ray.stages.check.probe import _fitting_examples, _write_batches, probe, probe_experiment
from ossft_ray.stages.check.stage import check
from ossft_ray.stages.train.training_examples import load_training_examples

NUM_PROBLEMS, NUM_PROBED = 240, 48
SECONDS_FACTOR = 2.5  # another job may slow this machine down by as much a minute later


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


def problems_within(forecast: Forecast, origin: str) -> tuple[float, float]:
    low, high = forecast.funnel[origin]
    return low * NUM_PROBLEMS, high * NUM_PROBLEMS


@pytest.mark.long
def test_the_run_takes_what_the_probe_forecast(tmp_path: Path, ray_cluster: None) -> None:
    from ossft_ray.stages.rewrite.stage import rewrite
    from ossft_ray.stages.train.stage import train

    experiment = experiment_on(tmp_path)
    findings = check(experiment, NUM_PROBED)
    forecast = probe(experiment, findings)
    assert (forecast.measured.num_problems, forecast.plan.num_problems) == (NUM_PROBED, NUM_PROBLEMS)

    rewritten, trained = rewrite(experiment), train(experiment)
    for origin, count in rewritten["origins"].items():
        low, high = problems_within(forecast, origin)
        assert low <= count <= high, origin
    for name in ("generated_tokens", "attempts", "prompt_tokens"):
        assert forecast.scale * getattr(forecast.measured, name) == pytest.approx(rewritten[name], rel=0.3), name
    assert forecast.steps == trained["steps"] == 8

    seconds = {stage.name: stage.seconds for stage in forecast.stages}
    assert seconds.keys() == {"rewrite", "score", "train", "evaluate"}
    spent = rewritten["phases"]["reading data"] + rewritten["phases"]["rewriting"]
    assert spent / SECONDS_FACTOR < seconds["rewrite"] < spent * SECONDS_FACTOR
    assert trained["seconds"] < seconds["train"] * SECONDS_FACTOR

    # the probe draws the same samples as the run
    whole = {row["problem_id"]: row["response"] for row in rows_of(experiment)}
    sample = {row["problem_id"]: row["response"] for row in rows_of(probe_experiment(experiment))}
    assert len(sample) == NUM_PROBED
    assert sample.items() <= whole.items()

    # the measurement is kept and used again; large files are deleted
    begun: list[str] = []

    def on_stage(name: str) -> OnProgress:
        begun.append(name)
        return lambda totals: None

    again = probe(experiment, findings, on_stage)
    assert (again.measured, begun) == (forecast.measured, ["probe"])
    assert not (tmp_path / "run" / "probe" / "train").exists()
    assert min(forecast.disk.values()) > 10**4 and forecast.disk["checkpoints"] > 10**6
    assert forecast.measured.policy_memory > 10**8 and forecast.measured.trainer_memory > 10**8


def rows_of(experiment: Experiment) -> list[dict[str, Any]]:
    rewritten = Folder.at(experiment.run.output) / "rewrite"
    rows: list[dict[str, Any]] = rewritten.read_tables("part-*.parquet", EXAMPLE_SCHEMA).to_pylist()
    return rows


def test_the_seed_draws_the_sample_from_all_problems(tmp_path: Path) -> None:
    experiment = experiment_on(tmp_path, 60)
    ids = [problem.problem_id for problem in check(experiment, 12).sample]
    assert len(set(ids)) == 12
    assert ids == [problem.problem_id for problem in check(experiment, 12).sample]
    assert set(ids) != {row["id"] for row in training_problems(60)[:12]}
    assert ids == [problem.problem_id for problem in check(experiment, 60).sample[:12]]  # a larger probe extends it
    other = experiment.model_copy(update={"run": experiment.run.model_copy(update={"seed": 1})})
    assert ids != [problem.problem_id for problem in check(other, 12).sample]
    assert check(experiment).sample == []


def test_a_probe_of_another_runs_examples_is_refused(tmp_path: Path) -> None:
    Folder.at(str(tmp_path / "other")).write_json("manifest.json", {})
    experiment = experiment_on(tmp_path, 3, examples=str(tmp_path / "other"))
    with pytest.raises(InputError, match=r"\[train\] examples: .* leave the key out"):
        probe(experiment, check(experiment, 2))


@pytest.mark.parametrize(
    "output, folder, problems",
    [
        ("/runs/first/", "/runs/first/probe", "/runs/first/probe/problems.jsonl"),
        ("s3://b/run?scheme=http", "s3://b/run/probe?scheme=http", "s3://b/run/probe/problems.jsonl?scheme=http"),
    ],
)
def test_a_probe_runs_in_a_folder_within_the_run(tmp_path: Path, output: str, folder: str, problems: str) -> None:
    experiment = experiment_on(tmp_path, 3)
    run = experiment.run.model_copy(update={"output": output})
    small = probe_experiment(experiment.model_copy(update={"run": run}))
    assert (small.run.output, small.data.path) == (folder, problems)


def example(problem_id: str, num_tokens: int) -> dict[str, Any]:
    return {
        "problem_id": problem_id,
        "prompt": [{"role": "user", "content": "?"}],
        "response": "",
        "response_token_ids": [5] * num_tokens,
        "origin": "self",
        "attempts": [],
        "policy": "playground",
    }


def test_batches_are_whole_and_hold_examples_that_fit(tmp_path: Path) -> None:
    experiment, folder = experiment_on(tmp_path, 3), Folder.at(str(tmp_path / "run"))
    run, rewritten = Run(experiment), folder / "rewrite"
    rewritten.write_table("part-00000.parquet", to_table([example("a", 10), example("b", 900)], EXAMPLE_SCHEMA))
    rewritten.write_json("manifest.json", {"fingerprint": "f"})
    _write_batches(folder, _fitting_examples(run), 96)
    batches = load_training_examples(folder / "batches", load_chat(experiment.policy), experiment)
    assert batches.examples.problem_ids == ["a"] * 96
    assert (folder / "batches").read_json("manifest.json")["fingerprint"] == "f"
