"""Evaluation of several models with vLLM and the playground policy: accuracies, differences, resuming, the cache."""

import json
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ossft_ray.common.errors import InputError, JobError
from ossft_ray.common.playground_paths import BENCHMARKS, POLICY_FOLDER
from ossft_ray.common.prompt_templates import TEMPLATES
from ossft_ray.common.storage import Folder
from ossft_ray.config import Experiment, resolve
from ossft_ray.run_folder.resolved_run import Run
from ossft_ray.run_folder.sessions import session_total
from ossft_ray.run_folder.stage_folder import finish_stage
from ossft_ray.stages.evaluate.sampling import ModelSampling
from ossft_ray.stages.evaluate.stage import evaluate, evaluated_models
from ossft_ray.stages.evaluate.worker import solve_template

NUM_PROBLEMS = 10  # two parts
LEVELS = ("easy", "hard")


def settings(folder: Path, run: str, **evaluate_settings: Any) -> dict[str, Any]:
    return {
        "run": {"output": str(folder / run)},
        "policy": {"model": "playground"},
        "data": {"path": "none.jsonl"},
        "evaluate": {
            "benchmarks": [str(folder / f"{level}.jsonl") for level in LEVELS],
            "num_samples": 4,
            "max_tokens": 48,
            "cache": str(folder / "cache"),
            **evaluate_settings,
        },
    }


def read_scores(experiment: Experiment) -> dict[str, Any]:
    scores: dict[str, Any] = json.loads(Path(experiment.run.output, "evaluate/scores.json").read_text())
    return scores


def notes_of(progress: list[dict[str, Any]]) -> list[str]:
    return [totals["note"] for totals in progress if "note" in totals]


def samples_of(experiment: Experiment, model: str) -> list[dict[str, Any]]:
    parts = sorted(Path(experiment.run.output, "evaluate", model).rglob("part-*.parquet"))
    return [row for part in parts for row in pq.read_table(part).to_pylist()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small benchmarks, and a model with flatter logits: the playground policy with a smaller last norm."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("evaluate")
    for level, name in zip(LEVELS, ("playground/level1", "playground/level3"), strict=True):
        lines = BENCHMARKS[name].read_text().splitlines()[:NUM_PROBLEMS]
        (folder / f"{level}.jsonl").write_text("\n".join(lines))
    shutil.copytree(POLICY_FOLDER, folder / "flat")
    weights = load_file(folder / "flat" / "model.safetensors")
    norm = weights["model.norm.weight"]
    save_file({**weights, "model.norm.weight": norm * 0.6}, folder / "flat" / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def finished(folder: Path, ray_cluster: None) -> tuple[Experiment, list[dict[str, Any]]]:
    """Both models evaluated, with the reports of progress."""
    experiment = resolve(settings(folder, "run", models={"flat": str(folder / "flat")}))
    progress: list[dict[str, Any]] = []
    with pytest.MonkeyPatch.context() as patch:  # models share engines only where there is a GPU
        patch.setattr("ossft_ray.stages.evaluate.sampling.num_visible_gpus", lambda: 1)
        evaluate(experiment, progress.append)
    return experiment, progress


def names(folder: Path) -> list[str]:
    return [str(folder / f"{level}.jsonl").strip("/").replace("/", "-") for level in LEVELS]


def test_every_model_has_samples_accuracies_and_differences(
    folder: Path, finished: tuple[Experiment, list[dict[str, Any]]]
) -> None:
    experiment, _ = finished
    output = Path(experiment.run.output, "evaluate")
    scores, differences = (json.loads((output / f"{name}.json").read_text()) for name in ("scores", "differences"))
    assert list(scores) == ["base", "flat"] and list(differences) == ["flat"]
    for model in scores:
        rows = samples_of(experiment, model)
        assert len(rows) == 2 * NUM_PROBLEMS * 4
        assert sum(e["avg"] for e in scores[model].values()) / 2 == pytest.approx(
            sum(row["correct"] for row in rows) / len(rows)
        )
        finished_rows = [row for row in rows if row["finish_reason"] == "stop"]
        assert sum(e["finished"] for e in scores[model].values()) / 2 == pytest.approx(len(finished_rows) / len(rows))
        assert all(0 <= e["in_form"] <= min(e["finished"], e["answered"]) for e in scores[model].values())
        assert all(list(e["pass"]) == ["1", "2", "4"] and 0 < e["mean_tokens"] <= 48 for e in scores[model].values())
    assert list(differences["flat"]) == [*names(folder), "average"]
    for name, found in differences["flat"].items():
        assert found["low"] <= found["difference"] <= found["high"]
        assert 0 < found["smallest_detectable"] <= 1
        if name != "average":
            gained = scores["flat"][name]["avg"] - scores["base"][name]["avg"]
            assert found["difference"] == pytest.approx(gained)
    assert differences["flat"]["average"]["difference"] < -0.05, "the flat policy guesses more"


def test_one_engine_serves_models_of_one_shape(finished: tuple[Experiment, list[dict[str, Any]]]) -> None:
    experiment, progress = finished
    logs = list(Path(experiment.run.output, "logs").glob("evaluate-*"))
    assert logs and all(log.name.startswith("evaluate-base-") for log in logs)
    base = Folder.at(experiment.run.output) / "evaluate/base"
    assert session_total(base, "draws") == 2 * 2 * NUM_PROBLEMS * 4, "of both models, in one session"
    assert session_total(base, "engine_deaths") == 0, "none was replaced"
    shown = [totals["model"] for totals in progress if "total" in totals]
    assert shown == sorted(shown) and set(shown) == {"base", "flat"}, "one after the other"
    last = {totals["model"]: totals for totals in progress if "total" in totals}
    for model, totals in last.items():
        assert totals["samples"] == 2 * NUM_PROBLEMS * 4 and totals["correct"] > 0
        assert totals["problems"] == totals["total"] == 2 * NUM_PROBLEMS, model


def test_only_missing_parts_are_sampled_again_even_in_a_separate_engine(
    folder: Path, finished: tuple[Experiment, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The samples equal those that the second model drew in the first one's engine."""
    shared, _ = finished
    shutil.copytree(shared.run.output, folder / "apart")
    apart = resolve(settings(folder, "apart", models={"flat": str(folder / "flat")}, cache=""))
    parts = sorted((folder / "apart/evaluate").glob("*/*/part-*.parquet"))
    assert len(parts) == 2 * len(ALL)
    missing = [path for path in parts if path.parts[-3] == "flat"][:-1]
    for path in missing:
        path.unlink()
    kept = {path: path.stat().st_mtime_ns for path in parts if path not in missing}
    progress: list[dict[str, Any]] = []
    monkeypatch.setattr(ModelSampling, "fits_engine_of", lambda *_: False)
    evaluate(apart, progress.append)
    sizes = [pq.read_metadata(path).num_rows for path in missing]
    assert progress[-1]["samples"] == sum(sizes) == 2 * NUM_PROBLEMS * 4 - 2 * 4
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert list((folder / "apart/logs").glob("evaluate-flat-*")), "an engine of its own"
    assert samples_of(apart, "flat") == samples_of(shared, "flat")


def test_an_engine_that_cannot_load_other_weights_is_replaced(
    folder: Path, finished: tuple[Experiment, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, _ = finished
    shape = Run.of(experiment).chat.model_shape
    smaller = folder / "smaller"
    if not smaller.exists():
        shutil.copytree(folder / "flat", smaller)
        from safetensors.torch import load_file, save_file

        weights = load_file(smaller / "model.safetensors")
        weights["model.norm.weight"] = weights["model.norm.weight"][:-1].clone()
        save_file(weights, smaller / "model.safetensors", {"format": "pt"})
    assert shape
    one_policy = settings(folder, "broken", models={"smaller": str(smaller)}) | {"resources": {"num_policies": 1}}
    with pytest.raises(JobError, match=r"^the model smaller \(.*\): the engine died 3 times in a row"):
        evaluate(resolve(one_policy))
    assert samples_of(resolve(one_policy), "base") == samples_of(experiment, "base")


def test_costs_are_those_of_the_sampling(finished: tuple[Experiment, list[dict[str, Any]]]) -> None:
    experiment, progress = finished
    costs = Folder.at(experiment.run.output).read_json("evaluate/costs.json")
    drawn = sum(
        {totals["model"]: totals.get("generated_tokens", 0) for totals in progress if "total" in totals}.values()
    )
    assert costs["generated_tokens"] == drawn > 0
    assert costs["seconds"] > 1


def test_a_second_call_does_nothing(finished: tuple[Experiment, list[dict[str, Any]]]) -> None:
    experiment, _ = finished
    progress: list[dict[str, Any]] = []
    evaluate(experiment, progress.append)
    assert [(totals["model"], totals["already_complete"]) for totals in progress] == [("base", True), ("flat", True)]


def test_another_run_takes_benchmarks_from_the_cache(
    folder: Path, finished: tuple[Experiment, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, _ = finished
    monkeypatch.setattr(
        "ossft_ray.stages.evaluate.sampling.run_workers", lambda *arguments, **keywords: pytest.fail("it sampled")
    )
    again = resolve(settings(folder, "again"))
    progress: list[dict[str, Any]] = []
    scores = evaluate(again, progress.append)
    assert samples_of(again, "base") == samples_of(experiment, "base")
    assert json.loads(json.dumps(scores))["base"] == read_scores(experiment)["base"]
    notes = notes_of(progress)
    assert len(notes) == 2 and all("10 problems of" in note and "come from the cache" in note for note in notes)


def sampled_parts(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch, **keywords: Any
) -> tuple[list[str], list[str]]:
    """The parts that would be sampled, and the notes; sampling is stopped before it starts."""
    parts: list[str] = []
    progress: list[dict[str, Any]] = []

    class Stopped(Exception):
        pass

    def draw(worker: Any, experiment: Experiment, missing: list[str], *arguments: Any, **keywords: Any) -> None:
        parts.extend(missing)
        raise Stopped

    monkeypatch.setattr("ossft_ray.stages.evaluate.sampling.run_workers", draw)
    with suppress(Stopped):
        evaluate(experiment, progress.append, **keywords)
    return [Path(part).name for part in parts], notes_of(progress)


ALL = ["easy.jsonl#0", "easy.jsonl#1", "hard.jsonl#0", "hard.jsonl#1"]


@pytest.mark.parametrize(
    "change, missing",
    [
        ({}, []),
        ({"evaluate": {"cache": ""}}, ALL),
        ({"evaluate": {"num_samples": 3}}, ALL),
        ({"evaluate": {"temperature": 0.5}}, ALL),
        ({"evaluate": {"template": "qwen-boxed"}}, ALL),
        ({"evaluate": {"template": "qwen25-math-cot"}}, []),
        ({"prompts": {"guided": "{question}{expert_solution}"}}, []),
        ({"prompts": {"system": "Think."}}, ALL),
        ({"run": {"seed": 1}}, ALL),
        ({"verify": {"kind": "number"}}, ALL),
        ({"policy": {"dtype": "float32"}}, ALL),
        ({"train": {"loss": "sft"}}, []),
    ],
)
def test_other_settings_sample_again_only_if_the_samples_depend_on_them(
    folder: Path,
    finished: tuple[Experiment, list[dict[str, Any]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, dict[str, Any]],
    missing: list[str],
) -> None:
    plain = settings(folder, "unused")
    plain["run"]["output"] = str(tmp_path / "run")
    changed = resolve({**plain, **{section: {**plain.get(section, {}), **keys} for section, keys in change.items()}})
    assert sampled_parts(changed, monkeypatch)[0] == missing


def test_starting_over_takes_nothing_from_the_cache(
    folder: Path, finished: tuple[Experiment, list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sampled_parts(resolve(settings(folder, f"{tmp_path.name}-over")), monkeypatch, start_over=True) == (ALL, [])


def test_changed_problems_of_a_benchmark_are_sampled_again(
    folder: Path, finished: tuple[Experiment, list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = folder / "easy.jsonl"
    whole = file.read_text()
    file.write_text(whole.replace("Work out", "Find"))
    try:
        assert sampled_parts(resolve(settings(folder, "other-problems")), monkeypatch)[0] == ALL[:2]
        with pytest.raises(InputError, match=r"the problems of .*easy\.jsonl have changed; pass --start-over"):
            evaluate(finished[0])
    finally:
        file.write_text(whole)


def test_an_unusable_model_is_refused_before_any_model_is_sampled(folder: Path, tmp_path: Path) -> None:
    experiment = resolve(settings(folder, "refused", models={"other": str(tmp_path / "nowhere")}))
    with pytest.raises(InputError, match=r"^\[evaluate\] models.other: no model folder at .*nowhere"):
        evaluate(experiment)
    assert not Path(experiment.run.output, "evaluate", "base").exists()


def test_models_are_base_then_trained_then_others(tmp_path: Path) -> None:
    given = resolve(settings(tmp_path, "run", models={"b": "owner/b", "a": "owner/a"}))
    given = given.model_copy(update={"policy": given.policy.model_copy(update={"revision": "v1"})})
    assert list(evaluated_models(Run(given))) == ["base", "b", "a"]
    finish_stage(Folder.at(given.run.output) / "train", {}, {})
    found = [each.experiment.policy for each in evaluated_models(Run(given)).values()]
    assert list(evaluated_models(Run(given))) == ["base", "trained", "b", "a"]
    assert [policy.model for policy in found[2:]] == ["owner/b", "owner/a"]
    assert [policy.revision for policy in found] == ["v1", None, None, None]


def test_evaluation_may_use_another_template_than_training(tmp_path: Path) -> None:
    given = resolve({**settings(tmp_path, "run"), "prompts": {"system": "Think."}})
    assert solve_template(given) == replace(TEMPLATES["qwen25-math-cot"], system="Think.")
    other = given.model_copy(update={"evaluate": given.evaluate.model_copy(update={"template": "llama-boxed"})})
    assert solve_template(other) == TEMPLATES["llama-boxed"]
