"""The start of a job: the check of its output, and the error if Ray does not start."""

from pathlib import Path
from unittest.mock import Mock

import pytest
import ray

from ossft_ray.common.errors import InputError, JobError
from ossft_ray.config import resolve
from ossft_ray.distributed.session import check_output, start_ray


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


def test_a_job_can_be_resumed_if_ray_does_not_start_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    experiment = resolve(
        {"run": {"output": str(tmp_path)}, "policy": {"model": "playground"}, "data": {"path": "x.jsonl"}}
    )
    for message, error in (("The current node timed out during startup.", JobError), ("no disk", Exception)):
        monkeypatch.setattr(ray, "init", Mock(side_effect=Exception(message)))
        with pytest.raises(error, match="run the same command again to resume" if error is JobError else message):
            start_ray(experiment, verbose=True)
