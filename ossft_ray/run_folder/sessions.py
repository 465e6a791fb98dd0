"""How long did a stage take, whenever it was at work? Each time its command is given it notes its finished phases."""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ossft_ray.common.storage import Folder, LineLog, read_lines
from ossft_ray.run_folder.names import SESSIONS


@dataclass
class Session:
    """One run of the command, whether it finishes the stage or is killed."""

    log: LineLog
    phase_began: float = field(default_factory=time.monotonic)

    @classmethod
    def begin(cls, folder: Folder) -> "Session":
        session = cls(LineLog(folder / SESSIONS, f"{time.time_ns()}.jsonl"))
        session.log.append({"began": round(time.time())})
        return session

    def note(self, phase: str, totals: dict[str, int] | None = None) -> None:
        """The phase has ended; `totals` are the workers' own."""
        now = time.monotonic()
        self.log.append({"phase": phase, "seconds": now - self.phase_began, "totals": totals or {}})
        self.phase_began = now

    def end(self) -> None:
        self.log.close()


def session_phases(folder: Folder) -> tuple[dict[str, float], int]:
    """Seconds by phase over all sessions that lived to tell them, and how many sessions there were.

    Loading and sampling are parts of rewriting: what an average worker spent until its engine was ready, and from then
    until the last response.
    """
    seconds: Counter[str] = Counter()
    for line in _lines(folder):
        if "phase" in line:
            seconds[line["phase"]] += line["seconds"]
            for part in ("loading", "sampling"):
                if milliseconds := line["totals"].get(f"{part}_ms"):
                    seconds[part] += milliseconds / 1000 / line["totals"]["policies"]
    return {phase: round(value, 3) for phase, value in seconds.items()}, len((folder / SESSIONS).names())


def session_total(folder: Folder, name: str) -> int:
    """The sum of one of the workers' totals over all sessions."""
    return sum(line.get("totals", {}).get(name, 0) for line in _lines(folder))


def _lines(folder: Folder) -> Iterator[Any]:
    sessions = folder / SESSIONS
    for name in sessions.names():
        yield from read_lines(sessions, name)
