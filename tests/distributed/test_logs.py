"""Log files of a run, and the messages of failures."""

import subprocess
import sys
from pathlib import Path

import pytest
from ray.exceptions import NodeDiedError, WorkerCrashedError

from ossft_ray.common.errors import InputError, JobError, telling_sentence
from ossft_ray.config import Experiment, resolve
from ossft_ray.distributed.logs import CORRECT, RESUME, engine_fault, explain_failure


def experiment(output: Path) -> Experiment:
    return resolve({"run": {"output": str(output)}, "policy": {"model": "playground"}, "data": {"path": "p.jsonl"}})


def test_a_failure_names_its_root_cause_and_the_logs(tmp_path: Path) -> None:
    outer = RuntimeError("many\nlines\nof Ray")
    outer.__cause__ = ValueError("no kernel\nfor this GPU")
    error = explain_failure(outer, experiment(tmp_path))
    assert isinstance(error, JobError)
    assert str(error) == (
        f"ValueError: no kernel; logs: {tmp_path}/logs; finished work is kept: correct this, and the same command "
        "resumes"
    )


@pytest.mark.parametrize(
    "error, end",
    [
        (NodeDiedError("node 7"), RESUME),
        (WorkerCrashedError(), RESUME),
        (ValueError("no such layer"), CORRECT),
        (KeyError("lm_head"), CORRECT),
        (OSError(28, "No space left on device", "/run/part"), CORRECT),
    ],
)
def test_a_failure_promises_to_resume_only_where_the_same_command_may_succeed(
    tmp_path: Path, error: Exception, end: str
) -> None:
    assert str(explain_failure(error, experiment(tmp_path))).endswith(f"; {end}")


HEADS = "Total number of attention heads (4) must be divisible by tensor parallel size (8)"
PYDANTIC = (
    f"1 validation error for VllmConfig\n  Value error, {HEADS}. [type=value_error, input_value=ArgsKwargs((), "
    "{'model_co...}), input_type=ArgsKwargs]\n    For further information visit https://errors.example/value_error"
)
ENGINE_LOG = """(EngineCore pid=81) INFO 11-26 23:46:22 [core.py:733] loading
(EngineCore pid=81) ERROR 11-26 23:46:22 [core.py:801] Traceback (most recent call last):
(EngineCore pid=81) ERROR 11-26 23:46:22 [core.py:801]   File "core.py", line 7, in load
(EngineCore pid=81) ERROR 11-26 23:46:22 [core.py:801] ValueError: No available memory for the cache blocks.
Traceback (most recent call last):
  File "async_llm.py", line 9, in start
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}
"""


@pytest.mark.parametrize(
    "text, sentence",
    [
        (PYDANTIC, HEADS),
        (f"ray::Worker() (pid=3)\npydantic_core._pydantic_core.ValidationError: {PYDANTIC}", HEADS),
        (
            "2 validation errors for ModelConfig\ndtype.literal['auto','half']\n  Input should be 'auto' or 'half' "
            "[type=literal_error, input_value='float8']",
            "dtype.literal['auto','half']: Input should be 'auto' or 'half'",
        ),
        (ENGINE_LOG, "ValueError: No available memory for the cache blocks"),
        (
            "Traceback:\n  File x\ntorch.cuda.OutOfMemoryError: CUDA out of memory.\nTried to allocate",
            "OutOfMemoryError: CUDA out of memory",
        ),
        ("ValueError: " + "long " * 100, "ValueError: " + ("long " * 57).strip() + " ..."),
        ("all is well", None),
    ],
)
def test_the_sentence_that_names_the_fault_is_found(text: str, sentence: str | None) -> None:
    assert telling_sentence(text) == sentence


def test_the_fault_of_an_engine_is_read_from_its_log(tmp_path: Path) -> None:
    assert engine_fault(experiment(tmp_path), "rewrite-0") == ""
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/rewrite-0.log").write_text("x" * 10**6 + "\n" + ENGINE_LOG)
    assert engine_fault(experiment(tmp_path), "rewrite-0") == "ValueError: No available memory for the cache blocks"


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
