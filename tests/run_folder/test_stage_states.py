"""What is outdated: results whose problems, examples, scores or model have changed since."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ossft_ray.common.storage import Folder
from ossft_ray.config import Data, resolve
from ossft_ray.data.problems import source_digests
from ossft_ray.policy.model_location import folder_digest
from ossft_ray.run_folder.provenance import write_config
from ossft_ray.run_folder.reader import open_rounds
from ossft_ray.run_folder.stage_folder import fingerprint, finish_stage
from ossft_ray.run_folder.stage_states import stage_states

STAGES = ("rewrite", "score", "train", "evaluate", "report")


def record(folder: Folder, inputs: dict[str, Any]) -> str:
    """A complete stage made from these inputs; returns its fingerprint."""
    folder.write_json("inputs.json", inputs)
    return str(finish_stage(folder, inputs, {})["fingerprint"])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A complete run of all stages, as its files record it."""
    data, folder = tmp_path / "problems.jsonl", tmp_path / "run"
    data.write_text('{"question": "1 + 1?", "answer": "2"}\n')
    write_config(
        resolve({"run": {"output": str(folder)}, "policy": {"model": "playground"}, "data": {"path": str(data)}})
    )
    output = Folder.at(str(folder))
    sources = source_digests(Data(path=str(data)))
    examples = record(output / "rewrite", {"data": {"sources": sources}, "samples": 8})
    (output / "rewrite").write_json("problems.json", {"problems": 1, "num_parts": 1})
    scores = record(output / "score", {"rewrite": examples})
    record(output / "train", {"rewrite": examples, "score": scores})
    write_model(folder, "first")
    for model in ("base", "trained"):
        digest = folder_digest(output / "train/model") if model == "trained" else "base"
        (output / "evaluate" / model).write_json("inputs.json", {"policy_files": digest})
        (output / "evaluate" / model).write_json("sizes.json", {"aime24": {"problems": 8, "parts": 1}})
        (output / "evaluate" / model / "aime24").write_bytes("part-00000.parquet", b"")
    (output / "evaluate").write_json("scores.json", {"base": {}, "trained": {}})
    output.write_bytes("report.html", b"")
    for path in [data, *folder.rglob("*")]:
        os.utime(path, (1000, 1000))
    return folder


def write_model(run: Path, weights: str) -> None:
    Folder.at(str(run / "train/model")).write_bytes("model.safetensors", weights.encode())


def draw_more_samples(run: Path) -> None:
    folder = Folder.at(str(run / "rewrite"))
    record(folder, folder.read_json("inputs.json") | {"samples": 16})


def begin_to_draw_more_samples(run: Path) -> None:
    draw_more_samples(run)
    (run / "rewrite/manifest.json").unlink()


def score_again(run: Path) -> None:
    inputs = json.loads((run / "rewrite/inputs.json").read_text())
    record(Folder.at(str(run / "score")), {"rewrite": fingerprint(inputs)})


def train_again(run: Path) -> None:
    examples = json.loads((run / "rewrite/manifest.json").read_text())["fingerprint"]
    record(Folder.at(str(run / "train")), {"rewrite": examples})
    write_model(run, "second")


def begin_to_train_again(run: Path) -> None:
    train_again(run)
    (run / "train/manifest.json").unlink()


def correct_an_answer(run: Path) -> None:
    (run.parent / "problems.jsonl").write_text('{"question": "1 + 1?", "answer": "3"}\n')


def touch_the_problems(run: Path) -> None:
    (run.parent / "problems.jsonl").touch()


def remove_the_problems(run: Path) -> None:
    (run.parent / "problems.jsonl").unlink()


def evaluate_the_base_alone(run: Path) -> None:
    (run / "evaluate/scores.json").write_text(json.dumps({"base": {}}))


def evaluate_again_until_stopped(run: Path) -> None:
    lines = [{"began": 1.0}, {"ended": 2.0, "outcome": "stopped", "reason": ""}]
    (run / "evaluate/activity.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


OUTDATED_EXAMPLES = "the examples have changed since"


@pytest.mark.parametrize(
    "changes, reasons",
    [
        ([], {}),
        ([touch_the_problems], {}),
        ([remove_the_problems], {}),
        (
            [correct_an_answer],
            {
                "rewrite": "problems.jsonl has changed since",
                "score": "the examples are outdated",
                "train": "the examples are outdated",
                "evaluate": "the model is outdated",
            },
        ),
        (
            [draw_more_samples],
            {
                "score": OUTDATED_EXAMPLES,
                "train": OUTDATED_EXAMPLES,
                "evaluate": "the model is outdated",
                "report": "rewrite is newer",
            },
        ),
        (
            [begin_to_draw_more_samples],
            {"score": OUTDATED_EXAMPLES, "train": OUTDATED_EXAMPLES, "evaluate": "the model is outdated"},
        ),
        (
            [draw_more_samples, score_again],
            {"train": "the scores have changed since", "evaluate": "the model is outdated", "report": "rewrite is"},
        ),
        (
            [draw_more_samples, score_again, train_again],
            {"evaluate": "the model has changed since", "report": "rewrite is newer"},
        ),
        ([begin_to_train_again], {"evaluate": "the model is being trained again"}),
        ([evaluate_the_base_alone], {"evaluate": "the trained model is not evaluated yet", "report": "evaluate is"}),
    ],
)
def test_what_is_outdated(run: Path, changes: list[Callable[[Path], None]], reasons: dict[str, str]) -> None:
    for change in changes:
        change(run)
    states = stage_states(open_rounds(str(run))[0])
    assert tuple(states) == STAGES
    found = {name: state.reason for name, state in states.items() if state.state == "outdated"}
    assert found.keys() == reasons.keys()
    assert all(reason in found[name] for name, reason in reasons.items())


def test_nothing_is_left_to_evaluate_without_a_benchmark(tmp_path: Path) -> None:
    for benchmarks, state in ((["playground/level1"], "not started"), ([], "not needed")):
        config = {"experiment": {"evaluate": {"benchmarks": benchmarks}}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert stage_states(open_rounds(str(tmp_path))[0])["evaluate"].state == state


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda run: None, ""),
        (draw_more_samples, "the previous round's model is outdated"),
        (begin_to_train_again, "the previous round's model is being trained again"),
        (lambda run: write_model(run, "second"), "the model has changed since"),
    ],
)
def test_a_later_round_is_outdated_with_the_model_it_starts_from(
    run: Path, change: Callable[[Path], None], reason: str
) -> None:
    later = Folder.at(str(run / "round-2"))
    model = folder_digest(Folder.at(str(run / "train/model")))
    record(later / "score", {"rewrite": record(later / "rewrite", {"policy_files": model})})
    change(run)
    first, second = open_rounds(str(run))
    states = stage_states(second, previous=first)
    assert (states["rewrite"].reason, states["score"].state) == (reason, "outdated" if reason else "complete")
    assert states["train"].state == "not started"


def test_an_evaluation_that_is_repeated_is_not_complete(run: Path) -> None:
    """Earlier results stay in place until the new samples are complete."""
    evaluate_again_until_stopped(run)
    assert stage_states(open_rounds(str(run))[0])["evaluate"].state == "stopped"
