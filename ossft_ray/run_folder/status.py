"""`ossft status`: how far a run is, from its folder alone, without Ray."""

import time
from dataclasses import asdict, dataclass
from typing import Any

from ossft_ray.run_folder.reader import open_rounds, storage_errors
from ossft_ray.run_folder.stage_status import StageStatus, read_stages


@dataclass(frozen=True)
class Status:
    """A run's rounds, each with its stages in order."""

    run: str
    now: float  # Unix time at which this holds
    rounds: list[list[StageStatus]]
    next: str | None  # the command that resumes the run; None if all is done, or something is going

    def as_json(self) -> dict[str, Any]:
        """What `ossft status --json` prints."""
        rounds = [{stage.name: asdict(stage) for stage in stages} for stages in self.rounds]
        return {"run": self.run, "now": self.now, "rounds": rounds, "next": self.next}


def status(run: str, now: float | None = None) -> Status:
    """The status of the run in a folder, a local path or an object-store URI. The run may be under way.

    Raises:
        InputError: the folder does not exist or holds no run, or a file in it cannot be read.
    """
    rounds = open_rounds(run)
    now = time.time() if now is None else now
    with storage_errors(run):
        found = [read_stages(each, now) for each in rounds]
    num_rounds = max(len(rounds), rounds[0].experiment.get("loop", {}).get("rounds", 1))
    return Status(run, now, found, next_command(found, num_rounds))


def next_command(rounds: list[list[StageStatus]], num_rounds: int) -> str | None:
    """The command that resumes a run of `num_rounds` rounds; None if nothing is left to do, or something is going."""
    stages = [stage for stages in rounds for stage in stages]
    if any(stage.state == "going" for stage in stages):
        return None
    num_over = max((number for number, stage in enumerate(stages, start=1) if stage.state == "complete"), default=0)
    # A stage that never began before a complete one was not needed, such as scoring for a loss without a reference.
    pending = [s for s in stages[:num_over] if s.state == "quiet"] + [s for s in stages[num_over:] if not s.is_over]
    if not pending and len(rounds) == num_rounds:
        return None
    return f"ossft {pending[0].name}" if pending and num_rounds == 1 else "ossft run"
