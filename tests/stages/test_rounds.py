"""The rounds of `ossft run`, relative outputs of submitted jobs, and the messages of failures."""

from pathlib import Path

import pytest

from ossft_ray.common.errors import InputError, JobError
from ossft_ray.config import resolve
from ossft_ray.distributed.logs import explain_failure
from ossft_ray.distributed.session import check_output
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


@pytest.mark.parametrize(
    "output, is_job, is_refused",
    [
        ("runs/x", True, True),
        ("runs/x", False, False),
        ("/shared/runs/x", True, False),
        ("s3://bucket/x", True, False),
    ],
)
def test_a_submitted_job_takes_an_absolute_output(
    output: str, is_job: bool, is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    if is_job:
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    if is_refused:
        with pytest.raises(InputError, match="absolute path"):
            check_output(output)
    else:
        check_output(output)


def test_a_failure_names_its_root_cause_and_the_logs(tmp_path: Path) -> None:
    experiment = resolve(
        {"run": {"output": str(tmp_path)}, "policy": {"model": "playground"}, "data": {"path": "p.jsonl"}}
    )
    outer = RuntimeError("many\nlines\nof Ray")
    outer.__cause__ = ValueError("no kernel\nfor this GPU")
    error = explain_failure(outer, experiment)
    assert isinstance(error, JobError)
    assert str(error).startswith("ValueError: for this GPU; logs: ")
    assert str(error).endswith(f"{tmp_path}/logs; run the same command again to resume")


def test_an_input_error_of_a_worker_stays_an_input_error() -> None:
    outer = RuntimeError("Ray's pages")
    outer.__cause__ = InputError("no such model")
    assert explain_failure(outer, EXPERIMENT) is outer.__cause__
