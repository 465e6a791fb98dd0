"""The output of a submitted job must be absolute."""

import pytest

from ossft_ray.common.errors import InputError
from ossft_ray.distributed.session import check_output


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
