"""Log files of a run, and the messages of failures."""

import subprocess
import sys
from pathlib import Path

from ossft_ray.common.errors import InputError, JobError
from ossft_ray.config import Experiment, resolve
from ossft_ray.distributed.logs import explain_failure


def experiment(output: Path) -> Experiment:
    return resolve({"run": {"output": str(output)}, "policy": {"model": "playground"}, "data": {"path": "p.jsonl"}})


def test_a_failure_names_its_root_cause_and_the_logs(tmp_path: Path) -> None:
    outer = RuntimeError("many\nlines\nof Ray")
    outer.__cause__ = ValueError("no kernel\nfor this GPU")
    error = explain_failure(outer, experiment(tmp_path))
    assert isinstance(error, JobError)
    assert str(error) == f"ValueError: for this GPU; logs: {tmp_path}/logs; run the same command again to resume"


def test_an_input_error_of_a_worker_stays_an_input_error(tmp_path: Path) -> None:
    outer = RuntimeError("many\nlines\nof Ray")
    outer.__cause__ = InputError("no such model")
    assert explain_failure(outer, experiment(tmp_path)) is outer.__cause__


DIVERTING = """
import os, sys
from ossft_ray.config import resolve
from ossft_ray.distributed.logs import divert_native_stderr

experiment = resolve({"run": {"output": sys.argv[1]}, "policy": {"model": "playground"}, "data": {"path": "p.jsonl"}})
for time in ("first", "second"):
    divert_native_stderr(experiment)
    os.write(2, f"native {time}\\n".encode())
    print("python", time, file=sys.stderr)
"""


def test_python_keeps_the_terminal_however_often_native_output_is_diverted(tmp_path: Path) -> None:
    """A stage that replans connects to Ray again."""
    command = [sys.executable, "-c", DIVERTING, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == "python first\npython second\n"
    assert (tmp_path / "logs/ray.log").read_text() == "native first\nnative second\n"
