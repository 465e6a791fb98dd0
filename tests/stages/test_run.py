"""The whole job with the playground policy: vLLM on Ray Data, Math-Verify, DeepSpeed on Ray Train."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ossft_ray.common.playground_paths import POLICY_FOLDER
from ossft_ray.common.schema import EXAMPLE_SCHEMA
from ossft_ray.config import Experiment, resolve
from ossft_ray.playground.arithmetic import training_problems
from tests.data_folder import DATA, needs_data

NUM_PROBLEMS = 36


def settings(folder: Path) -> dict[str, Any]:
    data = folder / "problems.jsonl"
    rows = [json.dumps(row) for row in training_problems(NUM_PROBLEMS, seed=3)]
    data.write_text("\n".join([*rows[:5], "{broken", *rows[5:]]))
    return {
        "run": {"output": str(folder / "run")},
        "policy": {"model": "playground"},
        "data": {"path": str(data), "columns": {"question": "question", "expert_solution": "expert_solution"}},
        "rewrite": {
            "keep_attempts": True,
            "self_alignment": {"max_tokens": 96},
            "guided_alignment": {"max_tokens": 96},
        },
        "train": {"learning_rate": 2e-4, "global_batch_size": 16, "precision": "fp32", "max_length": 512},
        "evaluate": {"benchmarks": ["playground/level1", "playground/level4"], "num_samples": 4, "max_tokens": 96},
    }


def descendants(name: str) -> list[str]:
    """Command lines with `name` in them, of this process's descendants."""
    listing = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listing.splitlines()[1:]]
    parents = {int(pid): int(parent) for pid, parent, _ in rows}

    def is_descendant(pid: int) -> bool:
        while pid > 1 and pid != os.getpid():
            pid = parents.get(pid, 0)
        return pid == os.getpid()

    return [args for pid, _, args in rows if name in args and is_descendant(int(pid))]


class Engines:
    """An `OnStage` that notes the engines that run at the start of a stage and during it."""

    def __init__(self) -> None:
        self.at_start: dict[str, list[str]] = {}
        self.during: dict[str, list[list[str]]] = {}
        self.workers_of_rewrite: list[str] | None = None  # half a minute after the end of the stage, or earlier
        self._deadline = 0.0

    def __call__(self, stage: str) -> Callable[[dict[str, Any]], None]:
        self.at_start[stage] = descendants("EngineCore")
        self.during[stage] = []
        if stage == "score":
            self._deadline = time.monotonic() + 30
        elif stage == "train":
            while (workers := descendants("(RewriteWorker)")) and time.monotonic() < self._deadline:
                time.sleep(0.5)
            self.workers_of_rewrite = workers
        return lambda totals: self.during[stage].append(descendants("EngineCore"))


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> tuple[Experiment, Engines]:
    """One run of all stages, which takes about two minutes."""
    from ossft_ray.stages.run import run

    experiment, engines = resolve(settings(tmp_path_factory.mktemp("whole"))), Engines()
    assert run(experiment, on_stage=engines) == experiment
    return experiment, engines


@pytest.fixture(scope="module")
def finished(watched: tuple[Experiment, Engines]) -> Experiment:
    return watched[0]


def read_examples(experiment: Experiment) -> list[dict[str, Any]]:
    parts = sorted(Path(experiment.run.output, "rewrite").glob("part-*.parquet"))
    return [row for part in parts for row in pq.read_table(part).to_pylist()]


def test_every_problem_has_one_example_with_the_promised_columns(finished: Experiment) -> None:
    (first, *_) = sorted(Path(finished.run.output, "rewrite").glob("part-*.parquet"))
    assert pq.read_schema(first).remove_metadata() == EXAMPLE_SCHEMA
    wanted = [row["id"] for row in training_problems(NUM_PROBLEMS, seed=3)]
    assert sorted(row["problem_id"] for row in read_examples(finished)) == sorted(wanted)


def test_kept_responses_are_what_the_policy_sampled(finished: Experiment) -> None:
    from ossft_ray.policy.chat import load_chat
    from ossft_ray.verification.kinds.math import grade

    chat = load_chat(finished.policy)
    for row in read_examples(finished):
        assert chat.decode(row["response_token_ids"]) == row["response"] == row["completion"][0]["content"]
        assert row["response_token_ids"][-1] == chat.end_of_turn_id
        assert grade(row["answer"], row["response"]).correct
        assert row["expert_solution"] not in str(row["prompt"])
        if row["origin"] == "expert":
            assert row["response"] == row["expert_solution"]
            assert row["num_correct"] == 0
        else:
            kept = next(attempt for attempt in row["attempts"] if attempt["correct"])
            assert (kept["stage"], kept["response"]) == (row["origin"], row["response"])
        assert row["num_attempts"] == len(row["attempts"])
        assert row["num_correct"] == sum(attempt["correct"] for attempt in row["attempts"])


def test_all_three_origins_occur(finished: Experiment) -> None:
    origins = [row["origin"] for row in read_examples(finished)]
    assert {origin: origins.count(origin) / NUM_PROBLEMS >= 0.1 for origin in ("self", "guided", "expert")} == {
        "self": True,
        "guided": True,
        "expert": True,
    }


def test_the_manifest_agrees_with_the_rows(finished: Experiment) -> None:
    manifest = json.loads(Path(finished.run.output, "rewrite/manifest.json").read_text())
    rows = read_examples(finished)
    attempts = [attempt for row in rows for attempt in row["attempts"]]
    assert manifest["problems"] == NUM_PROBLEMS
    assert manifest["rejected"] == 1
    assert manifest["origins"] == {
        origin: sum(row["origin"] == origin for row in rows) for origin in ("self", "guided", "expert")
    }
    assert manifest["attempts"] == len(attempts)
    assert manifest["generated_tokens"] == sum(attempt["num_tokens"] for attempt in attempts)
    assert manifest["prompt_tokens"] > manifest["attempts"]
    assert manifest["complete"] is True


def test_a_rejected_row_says_where_it_was(finished: Experiment) -> None:
    (row,) = pq.read_table(Path(finished.run.output, "rewrite/rejected-00000.parquet")).to_pylist()
    assert (row["row"], row["content"]) == (6, "{broken")
    assert row["reason"].startswith("broken_row: not valid JSON")


def test_the_trained_model_loads_in_transformers_and_ends_its_turn(finished: Experiment) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = Path(finished.run.output, "train/model")
    model = AutoModelForCausalLM.from_pretrained(folder)
    base = AutoModelForCausalLM.from_pretrained(POLICY_FOLDER)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert any((a != b).any() for a, b in zip(model.parameters(), base.parameters(), strict=True))
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is 3 + 4?"}], add_generation_prompt=True, return_tensors="pt"
    )
    output = model.generate(**prompt, max_new_tokens=64, do_sample=False)
    assert output[0, -1].item() in model.generation_config.eos_token_id


def test_scores_cover_both_models_on_every_benchmark(finished: Experiment) -> None:
    scores = json.loads(Path(finished.run.output, "evaluate/scores.json").read_text())
    for model in ("base", "trained"):
        for benchmark in ("playground-level1", "playground-level4"):
            entry = scores[model][benchmark]
            samples = pq.read_table(Path(finished.run.output, "evaluate", model, benchmark)).to_pylist()
            assert (entry["problems"], entry["samples"]) == (80, 4)
            assert entry["avg"] == pytest.approx(sum(row["correct"] for row in samples) / 320)
            assert 0 < entry["stderr"] < 0.1
            assert set(entry["pass"]) == {"1", "2", "4"}
            assert entry["pass"]["4"] >= entry["pass"]["1"] == pytest.approx(entry["avg"])
            assert 0 <= entry["maj"] <= 1
    assert scores["base"]["playground-level1"]["avg"] > scores["base"]["playground-level4"]["avg"]


def test_training_writes_a_line_for_each_step(finished: Experiment) -> None:
    lines = Path(finished.run.output, "train/metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines]
    assert [step["step"] for step in steps] == [1, 2, 3]
    assert {"loss", "cross_entropy", "learning_rate", "tokens_per_second"} <= steps[0].keys()


def test_config_json_holds_every_default(finished: Experiment) -> None:
    config = json.loads(Path(finished.run.output, "config.json").read_text())
    assert resolve(config["experiment"]) == finished
    assert config["experiment"]["train"]["loss"] == "dft"
    assert config["fingerprints"].keys() == {"rewrite", "score", "train"}
    assert config["versions"]["ray"]


def test_the_report_is_one_page_with_figures(finished: Experiment) -> None:
    page = Path(finished.run.output, "report.html").read_text()
    assert "playground-level4" in page
    assert page.count("<svg") > 5
    assert "none: CPU" in page  # so the number of GPUs was recorded


def test_engine_logs_are_in_the_run(finished: Experiment) -> None:
    logs = {path.name.rpartition("-")[0] for path in Path(finished.run.output, "logs").glob("*.log")}
    assert {"rewrite", "evaluate-base", "evaluate-trained", "train"} <= logs


def test_no_engine_outlives_its_stage(watched: tuple[Experiment, Engines]) -> None:
    """On one GPU the next stage needs the memory at once; the actor around the engine may end later."""
    _, engines = watched
    assert any(engines.during["rewrite"]), "an engine ran during the stage"
    assert engines.at_start["score"] == []
    assert engines.workers_of_rewrite == []


def test_a_second_run_does_nothing_and_reports_it(finished: Experiment) -> None:
    from ossft_ray.stages.run import run

    manifest = Path(finished.run.output, "rewrite/manifest.json")
    before = manifest.stat().st_mtime_ns
    reported: dict[str, list[dict[str, Any]]] = {}
    run(finished, on_stage=lambda stage: reported.setdefault(stage, []).append)
    assert all(totals["already_complete"] for reports in reported.values() for totals in reports)
    assert set(reported) == {"rewrite", "score", "train", "evaluate"}
    assert manifest.stat().st_mtime_ns == before


def test_other_settings_with_the_same_output_are_refused(finished: Experiment) -> None:
    from ossft_ray.common.errors import InputError
    from ossft_ray.stages.rewrite.stage import rewrite

    changed = resolve(
        {**finished.model_dump(), "rewrite": {**finished.rewrite.model_dump(), "self_alignment": {"num_samples": 3}}}
    )
    with pytest.raises(InputError, match=r"rewrite\.self_alignment\.num_samples was 8, is now 3"):
        rewrite(changed)


def test_a_missing_part_is_rewritten_identically(finished: Experiment) -> None:
    """A killed run leaves some parts and no manifest. The same command writes the rest, with the same rows."""
    from ossft_ray.stages.rewrite.stage import rewrite

    folder = Path(finished.run.output, "rewrite")
    before = read_examples(finished)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").unlink()
    (folder / "part-00001.parquet").unlink()
    again = rewrite(finished)
    assert read_examples(finished) == before
    session_keys = ("seconds", "phases", "sessions", "speculative_attempts", "speculative_tokens")
    assert {key: value for key, value in again.items() if key not in session_keys} == {
        key: value for key, value in manifest.items() if key not in session_keys
    }


@needs_data
@pytest.mark.long
def test_gsm8k_runs_through_the_playground_policy(tmp_path: Path, ray_cluster: None) -> None:
    """Problems in real text, which the playground policy cannot solve: none is lost."""
    from ossft_ray.stages.rewrite.stage import rewrite

    experiment = resolve(
        {
            "run": {"output": str(tmp_path / "run")},
            "policy": {"model": "playground"},
            "data": {
                "path": str(DATA / "gsm8k_train.jsonl"),
                "limit": 20,
                "columns": {"question": "question", "expert_solution": "answer"},
            },
            "rewrite": {
                "self_alignment": {"num_samples": 2, "max_tokens": 32},
                "guided_alignment": {"num_samples": 1, "max_tokens": 32},
            },
        }
    )
    manifest = rewrite(experiment)
    assert (manifest["problems"], manifest["rejected"], sum(manifest["origins"].values())) == (20, 0, 20)
    assert manifest["origins"]["expert"] >= 18
    assert read_examples(experiment)[0]["answer"] == "72"
