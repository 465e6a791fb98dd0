"""Where each round of `ossft run` lives and which model it starts from; what is refused; how failures read."""

from pathlib import Path

import pytest

from ossft_ray.common.errors import InputError, JobError
from ossft_ray.config import resolve
from ossft_ray.distributed.rollout_worker import failure
from ossft_ray.distributed.session import check_output
from ossft_ray.stages.run import round_experiment

EXPERIMENT = resolve(
    {"run": {"output": "/runs/x"}, "policy": {"model": "base", "revision": "v1"}, "data": {"path": "p.jsonl"}}
)


@pytest.mark.parametrize(
    "number, output, model, revision",
    [
        (1, "/runs/x", "base", "v1"),
        (2, "/runs/x/round-2", "/runs/x/train/model", None),
        (3, "/runs/x/round-3", "/runs/x/round-2/train/model", None),
    ],
)
def test_each_round_starts_from_the_model_before(number: int, output: str, model: str, revision: str | None) -> None:
    current = round_experiment(EXPERIMENT, number)
    assert (current.run.output, current.policy.model, current.policy.revision) == (output, model, revision)


@pytest.mark.parametrize(
    "output, is_job, is_refused",
    [
        ("runs/x", True, True),
        ("runs/x", False, False),
        ("/shared/runs/x", True, False),
        ("s3://bucket/x", True, False),
    ],
)
def test_a_submitted_job_needs_an_absolute_output(
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
    error = failure(outer, experiment)
    assert isinstance(error, JobError)
    assert str(error).startswith("ValueError: for this GPU; logs: ")
    assert f"{tmp_path}/logs" in str(error)


def test_a_refusal_in_a_worker_stays_a_refusal() -> None:
    outer = RuntimeError("Ray's pages")
    outer.__cause__ = InputError("no such model")
    assert failure(outer, EXPERIMENT) is outer.__cause__
