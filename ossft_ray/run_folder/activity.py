"""The activity of a stage: which command works on it, whether it still does, and how it ended.

The file is replaced when a command begins to work on the stage, grows by a heartbeat every 20 seconds, and ends with
a line about the outcome. A killed command leaves no such line; a missing process or missing heartbeats reveal it.
"""

import shlex
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from os import getpid
from pathlib import Path
from typing import Any, Literal

from ossft_ray.common.errors import Stopped, brief
from ossft_ray.common.secrets import mask
from ossft_ray.common.storage import Folder
from ossft_ray.run_folder.line_log import LineLog, read_lines
from ossft_ray.run_folder.names import ACTIVITY

_HEARTBEAT_SECONDS = 20.0
_SILENT_SECONDS = 120.0  # without a heartbeat: its process was killed, or its machine is gone
Outcome = Literal["running", "stopped", "failed", "complete"]


@dataclass(frozen=True)
class Activity:
    """The newest command that worked on a stage."""

    outcome: Outcome
    reason: str = ""
    last_sign: float | None = None  # Unix time
    is_recorded: bool = False  # otherwise guessed from the age of the newest file


@contextmanager
def recorded(folder: Folder) -> Iterator[None]:
    """Record that this process works on the stage in `folder` for as long as the context lasts, and how it ends."""
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    began = {"began": time.time(), "host": socket.gethostname(), "pid": getpid(), "command": mask(command)}
    log, lock, ended = LineLog(folder, ACTIVITY, [began]), threading.Lock(), threading.Event()

    def give_signs_of_life() -> None:
        while not ended.wait(_HEARTBEAT_SECONDS):
            with lock, suppress(OSError):
                log.append({"alive": time.time()})

    threading.Thread(target=give_signs_of_life, daemon=True).start()
    outcome: Outcome = "failed"
    reason = ""
    try:
        yield
        outcome = "complete"
    except (KeyboardInterrupt, SystemExit):
        outcome = "stopped"
        raise
    except Stopped as request:
        outcome, reason = "stopped", str(request)
        raise
    except BaseException as error:
        reason = brief(error)
        raise
    finally:
        ended.set()
        with lock, suppress(OSError):
            # A stage that refused its input may have removed its folder, which must not come back.
            if is_there := folder.exists():
                log.append({"ended": time.time(), "outcome": outcome, "reason": mask(reason)}, flush=True)
            log.close(keep=is_there)


def newest_command(folders: Iterable[Folder]) -> str:
    """The command that last worked on one of these stages, as it was given; empty if none is recorded."""
    begun = [lines[0] for folder in folders if (lines := read_lines(folder, ACTIVITY)) and "began" in lines[0]]
    return str(max(begun, key=lambda line: line["began"]).get("command", "")) if begun else ""


def read_activity(folder: Folder, newest_file: float, now: float) -> Activity:
    """The newest activity on a stage without a result, whose newest file was written at `newest_file` (Unix time)."""
    lines: list[dict[str, Any]] = read_lines(folder, ACTIVITY)
    known = {name: value for line in lines for name, value in line.items()}
    if "ended" in known:
        return Activity(known["outcome"], known["reason"], known["ended"], True)
    last_sign = max(newest_file, known.get("alive", 0.0), known.get("began", 0.0))
    if known.get("host") == socket.gethostname() and not Path(f"/proc/{known['pid']}").exists():
        return Activity("stopped", "its process was killed", last_sign, bool(lines))
    if now - last_sign > _SILENT_SECONDS:
        return Activity("stopped", "no heartbeat; killed, or its machine is gone", last_sign, bool(lines))
    return Activity("running", "", last_sign, bool(lines))
