"""`ossft status`: how far is a run, and what goes on with it? From its folder alone, without Ray."""

import time
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from ossft_ray.common.errors import InputError
from ossft_ray.run_folder.names import CONFIG, INPUTS
from ossft_ray.run_folder.rounds import RunFiles, read_run
from ossft_ray.run_folder.stage_status import Stage, read_stages

_STAGES = ("rewrite", "score", "train", "evaluate")  # those that have a folder


@dataclass(frozen=True)
class Status:
    """A run's rounds, each with its stages in order, and the command that goes on; None where all is done or going."""

    run: str
    now: float  # Unix time at which this holds
    rounds: list[list[Stage]]
    next: str | None

    def as_json(self) -> dict[str, Any]:
        rounds = [{stage.name: asdict(stage) for stage in stages} for stages in self.rounds]
        return {"run": self.run, "now": self.now, "rounds": rounds, "next": self.next}


def status(run: str, now: float | None = None) -> Status:
    """How far the run in a folder is, a local path or an object-store URI; it may be under way.

    Raises:
        InputError: there is no such folder, it holds no run, or a file in it is not what its name says.
    """
    rounds = read_run(run)
    _refuse_other_folders(run, rounds[0])
    now = time.time() if now is None else now
    try:
        found = [read_stages(files, now) for files in rounds]
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{run}: cannot be read: {str(error).splitlines()[0]}") from error
    num_rounds = max(len(rounds), rounds[0].experiment.get("loop", {}).get("rounds", 1))
    return Status(run, now, found, next_command(found, num_rounds))


def next_command(rounds: list[list[Stage]], num_rounds: int) -> str | None:
    """What goes on with a run of so many rounds; None where nothing is left to do, or something is being done."""
    stages = [stage for stages in rounds for stage in stages]
    num_over = max((number for number, stage in enumerate(stages, start=1) if stage.state == "complete"), default=0)
    # what was left out before a stage that is complete was not needed, such as a score
    open_stages = [s for s in stages[:num_over] if s.state == "quiet"] + [s for s in stages[num_over:] if not s.is_over]
    unfinished = next(iter(open_stages), None)
    if any(stage.state == "going" for stage in stages):
        return None
    if unfinished is None and len(rounds) == num_rounds:
        return None
    return "ossft run" if unfinished is None or num_rounds > 1 else f"ossft {unfinished.name}"


def _refuse_other_folders(run: str, files: RunFiles) -> None:
    if files.experiment or any((files.folder / name).exists() for name in _STAGES):
        return
    mend = "give the folder above it" if files.folder.exists(INPUTS) else "give a run's folder, its [run] output"
    raise InputError(f"{run}: holds no run, neither an experiment's {CONFIG} nor a stage's folder; {mend}")
