"""Log files of workers in the run's folder, and one-line errors that point to them."""

import os
import sys
from pathlib import Path

from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError, WorkerCrashedError

from ossft_ray.common.errors import InputError, JobError, brief, root_cause, telling_sentence
from ossft_ray.common.storage import Folder
from ossft_ray.common.streams import separate_stderr
from ossft_ray.config import Experiment
from ossft_ray.run_folder.names import LOGS

RESUME = "run the same command again to resume"
CORRECT = "finished work is kept: correct this, and the same command resumes"
_TAIL_BYTES = 1 << 16
# The same command may succeed after these. After any other error it would fail again.
_LOST = (RayActorError, WorkerCrashedError, NodeDiedError, ObjectLostError, OutOfMemoryError)


def redirect_output(experiment: Experiment, name: str, descriptors: tuple[int, ...] = (1, 2)) -> None:
    """Send the output of this process, and of children it starts later, to the run's `logs/NAME.log`."""
    folder = _log_folder(experiment)
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with open(folder / f"{name}.log", "ab") as log:
        for descriptor in descriptors:
            os.dup2(log.fileno(), descriptor)


def divert_native_stderr(experiment: Experiment) -> None:
    """Let C++ and child processes print to `logs/ray.log`, while Python's stderr stays the terminal."""
    separate_stderr()
    redirect_output(experiment, "ray", descriptors=(2,))


def engine_fault(experiment: Experiment, name: str) -> str:
    """What is wrong with an engine, from the end of its worker's log `NAME.log`; empty if nothing is known."""
    folder = _log_folder(experiment)
    if folder is None or not (folder / f"{name}.log").is_file():
        return ""
    with (folder / f"{name}.log").open("rb") as log:
        log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
        return telling_sentence(log.read().decode(errors="replace")) or ""


def see_logs(experiment: Experiment) -> str:
    """The end of an error message that names the log folder; empty for a run in an object store."""
    folder = _log_folder(experiment)
    return f"; logs: {folder}" if folder else ""


def explain_failure(error: BaseException, experiment: Experiment) -> InputError | JobError:
    """What the user reads when Ray work has failed: our own error as is, else the root cause in one line."""
    cause: BaseException = error
    while inner := getattr(cause, "cause", None) or cause.__cause__:  # a RayTaskError has the former
        if isinstance(cause, InputError | JobError) or not isinstance(inner, BaseException) or inner is cause:
            break
        cause = inner
    if isinstance(cause, InputError | JobError):
        return cause
    if isinstance(cause, OSError):
        return JobError(f"{experiment.run.output}: {brief(cause)}; {CORRECT}")
    kind, reason = type(cause).__name__, root_cause(cause)
    is_complete = reason == kind or telling_sentence(str(cause)) is not None
    return JobError(f"{reason if is_complete else f'{kind}: {reason}'}{see_logs(experiment)}; {what_to_do(cause)}")


def what_to_do(cause: BaseException) -> str:
    """The end of an error message: resume where a process or a machine was lost, else correct the cause first."""
    return RESUME if isinstance(cause, _LOST) else CORRECT


def _log_folder(experiment: Experiment) -> Path | None:
    """None for a run in an object store: Ray keeps the logs of its workers."""
    local = Folder.at(experiment.run.output).local_path
    return local / LOGS if local else None
