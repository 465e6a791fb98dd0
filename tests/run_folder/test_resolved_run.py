"""`Run`: whatever the stages derive from an experiment is resolved once, and passed on."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ossft_ray.common.playground_paths import POLICY_FOLDER
from ossft_ray.common.schema import SAMPLE_SCHEMA, to_table
from ossft_ray.common.storage import Folder
from ossft_ray.common.types import Problem
from ossft_ray.config import Resources
from ossft_ray.method.rewriting import stage_prompt
from ossft_ray.playground.arithmetic import training_problems
from ossft_ray.run_folder import resolved_run
from ossft_ray.run_folder.names import METRICS, MODEL, PROBLEMS, REWRITE, part_name
from ossft_ray.run_folder.parts import write_part
from ossft_ray.run_folder.resolved_run import Run, num_bytes
from ossft_ray.stages import run as flow
from ossft_ray.stages.evaluate.benchmark_parts import folder_name, split_part
from ossft_ray.stages.evaluate.sampling import ModelSampling
from ossft_ray.stages.rewrite import stage as rewrite_stage
from ossft_ray.stages.score import stage as score_stage
from ossft_ray.stages.train import stage as train_stage
from tests.stages.scripted import experiment

RESOLVED = ("load_chat", "model_digest", "source_digests", "benchmark_digests")
NO_WORK: dict[str, Any] = {"started": 0.0, "ended": 1.0, "suspects": [], "reasons": {}}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each resource was resolved, by function and, if it has one, model."""
    counts: Counter[str] = Counter()

    def counted(name: str) -> Any:
        resolve = getattr(resolved_run, name)

        def call(*arguments: Any) -> Any:
            counts[f"{name} {getattr(arguments[0], 'model', '')}".strip()] += 1
            return resolve(*arguments)

        return call

    for name in RESOLVED:
        monkeypatch.setattr(resolved_run, name, counted(name))
    return counts


@pytest.fixture
def no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the driver of each stage do all its work, and write stand-ins for the workers' files."""

    def rewrite_all(worker: Any, experiment: Any, missing: list[str], *_: Any, max_length: int) -> dict[str, int]:
        assert max_length == 2048, "the context: evaluation may sample 4,096 tokens"
        folder = Folder.at(experiment.run.output) / REWRITE
        for part in missing:
            rows = (folder / PROBLEMS).read_table(part).to_pylist()
            prompt = [{"role": "user", "content": "?"}]
            kept = {"prompt": prompt, "response_token_ids": [5], "origin": "expert", "policy": experiment.policy.model}
            write_part(folder, part, [row | kept for row in rows], [], NO_WORK)
        return {}

    def fit(experiment: Any, folder: Folder, *_: Any) -> None:
        step = {"step": 1, "loss": 1.0, "cross_entropy": 1.0, "seconds": 1.0}
        folder.write_bytes(METRICS, json.dumps(step).encode())
        shutil.copytree(POLICY_FOLDER, Path(folder.path) / MODEL)

    def draw(models: dict[str, ModelSampling], missing: dict[str, list[str]], verbose: bool) -> None:
        for sampling, part in ((model, part) for name, model in models.items() for part in missing[name]):
            benchmark, number = split_part(part)
            ids = [problem.problem_id for problem in sampling.benchmarks[benchmark][8 * number : 8 * number + 8]]
            rows = [{"problem_id": problem_id, "index": 0, "correct": False} for problem_id in ids]
            (sampling.folder / folder_name(benchmark)).write_table(part_name(number), to_table(rows, SAMPLE_SCHEMA))

    for stage in (rewrite_stage, score_stage, train_stage):
        monkeypatch.setattr(stage, "start_ray", lambda *_: None)
    monkeypatch.setattr(rewrite_stage, "run_workers", rewrite_all)
    monkeypatch.setattr(score_stage, "run_group", lambda *_: None)
    monkeypatch.setattr(train_stage, "_fit", fit)
    monkeypatch.setattr("ossft_ray.stages.evaluate.sampling.draw", draw)
    monkeypatch.setattr(flow, "report", lambda experiment: None)


def test_a_whole_run_resolves_everything_once(tmp_path: Path, calls: Counter[str], no_workers: None) -> None:
    output = str(tmp_path / "run")
    settings = experiment(
        output, 20, evaluate={"benchmarks": ["playground/level1"], "num_samples": 1, "models": {"other": output + "-b"}}
    )
    shutil.copytree(POLICY_FOLDER, settings.evaluate.models["other"])
    begun: list[str] = []
    flow.run(settings, lambda stage: begun.append(stage) or (lambda totals: None))  # type: ignore[func-returns-value]
    assert begun == ["rewrite", "score", "train", "evaluate"]
    models = ("playground", settings.evaluate.models["other"], f"{output}/train/model")
    once = {f"{name} {model}" for name in ("load_chat", "model_digest") for model in models}
    assert calls == dict.fromkeys({*once, "source_digests", "benchmark_digests"}, 1)


def test_nothing_is_resolved_before_it_is_needed(tmp_path: Path, calls: Counter[str]) -> None:
    run = Run(experiment(str(tmp_path / "run")))
    assert run.folder.path == str(tmp_path / "run") and calls == {}


def test_a_run_on_other_resources_keeps_what_is_resolved(tmp_path: Path, calls: Counter[str]) -> None:
    run = Run(experiment(str(tmp_path / "run")))
    chat = run.chat
    smaller = run.updated(resources=Resources(num_policies=1))
    assert smaller.experiment.resources.num_policies == 1 and run.experiment.resources.num_policies == "auto"
    assert smaller.chat is chat and calls == {"load_chat playground": 1}


def test_a_run_of_a_local_model_is_its_own_pinned_run(tmp_path: Path) -> None:
    run = Run(experiment(str(tmp_path / "run")))
    assert run.pinned(refresh=True) is run and Run.of(run) is run


@pytest.mark.parametrize("hide_answer", [True, False])
def test_an_engine_holds_all_prompts_and_their_responses_but_not_the_whole_context(
    tmp_path: Path, hide_answer: bool
) -> None:
    limits = {"max_tokens": 64}
    run = Run(
        experiment(
            str(tmp_path / "run"),
            rewrite={"self_alignment": limits, "guided_alignment": limits | {"hide_answer": hide_answer}},
            evaluate={"max_tokens": 96},
        )
    )
    rows = training_problems(200, seed=3)
    problems = [Problem(row["id"], row["question"], row["answer"], row["expert_solution"]) for row in rows]
    length = run.engine_length(max(map(num_bytes, problems)))
    assert length == 1024 < run.chat.context_length
    settings, prompts = run.experiment.rewrite, run.experiment.prompts
    for stage in settings.stages:
        rendered = (run.chat.render(stage_prompt(stage, problem, settings, prompts)) for problem in problems)
        assert max(map(len, rendered)) + 96 <= length
    assert run.engine_length(0) is None, "unknown"
    assert run.engine_length(10**6) == run.chat.context_length
