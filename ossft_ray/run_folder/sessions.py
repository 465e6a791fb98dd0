"""Sessions of a stage: each call of its command logs the phases it finished and how long they took."""

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from ossft_ray.common.storage import Folder
from ossft_ray.run_folder.line_log import LineLog, read_lines
from ossft_ray.run_folder.names import SESSIONS


class Session:
    """One call of the command, whether it finishes the stage or is killed."""

    def __init__(self, folder: Folder) -> None:
        self._log = LineLog(folder / SESSIONS, f"{time.time_ns()}.jsonl")
        self._log.append({"began": round(time.time())})
        self._phase_began = time.monotonic()

    def end_phase(self, phase: str, totals: dict[str, int] | None = None) -> None:
        """Record a phase that has ended, with the totals of its workers; the next one begins now."""
        now = time.monotonic()
        self._log.append({"phase": phase, "seconds": now - self._phase_began, "totals": totals or {}})
        self._phase_began = now

    def close(self) -> None:
        self._log.close()


def session_phases(folder: Folder) -> tuple[dict[str, float], int]:
    """Seconds by phase, added up over all sessions that finished the phase, and the number of sessions.

    `loading` and `sampling` are parts of rewriting: how long an average worker waited for its engine, and how long its
    engine had requests to work on.
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
    """One of the workers' totals, added up over all sessions."""
    return sum(line.get("totals", {}).get(name, 0) for line in _lines(folder))


def newest_session_start(folder: Folder) -> float:
    """Unix time at which the command was last given; 0 if it never was."""
    return float(max((line["began"] for line in _lines(folder) if "began" in line), default=0))


def _lines(folder: Folder) -> Iterator[Any]:
    sessions = folder / SESSIONS
    for name in sessions.names():
        yield from read_lines(sessions, name)
