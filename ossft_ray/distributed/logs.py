"""Where worker noise goes: one log file a worker in the run's folder."""

import os
import sys
from pathlib import Path

from ossft_ray.common.storage import Folder
from ossft_ray.config import Experiment
from ossft_ray.run_folder.names import LOGS


def log_folder(experiment: Experiment) -> Path | None:
    """Where engine logs go; None for an object store, whose runs leave them with Ray."""
    local = Folder.at(experiment.run.output).local_path
    return local / LOGS if local else None


def redirect_output(experiment: Experiment, name: str) -> None:
    """Send this process's stdout and stderr, and those of its children to come, to `logs/NAME.log` of the run."""
    log = _open_log(experiment, name)
    if log is None:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def divert_native_stderr(experiment: Experiment) -> None:
    """Let C++ and child processes print to `logs/ray.log`, while Python's own stderr stays the terminal."""
    log = _open_log(experiment, "ray")
    if log is None:
        return
    sys.stderr.flush()
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    os.dup2(log, 2)
    os.close(log)


def _open_log(experiment: Experiment, name: str) -> int | None:
    folder = log_folder(experiment)
    if folder is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    return os.open(folder / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
