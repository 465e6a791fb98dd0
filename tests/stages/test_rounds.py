"""The rounds of `ossft run`: where each writes, and which model it starts from."""

from pathlib import Path

import pytest

from ossft_ray.common.storage import Folder
from ossft_ray.config import resolve
from ossft_ray.run_folder.resolved_run import Run
from ossft_ray.stages.run import _is_of_other_model, next_round

EXPERIMENT = resolve(
    {"run": {"output": "/runs/x"}, "policy": {"model": "base", "revision": "v1"}, "data": {"path": "p.jsonl"}}
)


@pytest.mark.parametrize(
    "number, output, model",
    [(2, "/runs/x/round-2", "/runs/x/train/model"), (3, "/runs/x/round-3", "/runs/x/round-2/train/model")],
)
def test_a_round_starts_from_the_model_of_the_previous_one(number: int, output: str, model: str) -> None:
    this_round = Run(EXPERIMENT)
    for each in range(2, number + 1):
        this_round = next_round(EXPERIMENT, this_round, each)
    current = this_round.experiment
    assert (current.run.output, current.policy.model, current.policy.revision) == (output, model, None)
    unchanged = {"run": EXPERIMENT.run, "policy": EXPERIMENT.policy}
    assert current.model_copy(update=unchanged) == EXPERIMENT


@pytest.mark.parametrize(
    "stage, inputs, expected",
    [
        ("rewrite", None, False),  # nothing is there yet
        ("rewrite", {"policy_files": "this"}, False),
        ("rewrite", {"policy_files": "an earlier one"}, True),
        ("score", {"model": "this"}, False),
        ("train", {"model": "an earlier one"}, True),
        ("evaluate/base", {"policy_files": "an earlier one"}, True),
    ],
)
def test_a_later_round_starts_over_if_the_model_before_it_was_trained_again(
    tmp_path: Path, stage: str, inputs: dict[str, str] | None, expected: bool
) -> None:
    settings = EXPERIMENT.run.model_copy(update={"output": str(tmp_path)})
    run = Run(EXPERIMENT.model_copy(update={"run": settings}))
    vars(run)["policy_digest"] = "this"
    if inputs is not None:
        (Folder.at(str(tmp_path)) / stage).write_json("inputs.json", inputs)
    assert _is_of_other_model(run, stage.partition("/")[0]) is expected
