"""The rounds of `ossft run`: where each writes, and which model it starts from."""

import pytest

from ossft_ray.config import resolve
from ossft_ray.run_folder.resolved_run import Run
from ossft_ray.stages.run import next_round

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
