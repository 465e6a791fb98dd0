"""A grader for the tests of the pool: it does what a response says, and logs when.

The answer is the path of the log, and the response is "NAME ACTION". A line of the log is "begin|end NAME pid time", on
the clock that all processes share.
"""

import os
import signal
import time

from ossft_ray.common.verdict import Verdict

RIGHT = Verdict(True, "correct")


def grade(answer: str, response: str) -> Verdict:
    if answer == "1":  # each worker grades this once after loading
        return RIGHT
    name, action, *_ = response.split()
    num_before = num_begun(answer, name)
    _log(answer, "begin", name)
    if action == "bomb" or (action == "bomb_once" and num_before == 0):
        _spin(3600)
    elif action == "sleep":
        time.sleep(3600)
    elif action == "naps":
        for _ in range(30):
            time.sleep(0.08)
            _spin(0.02)
    elif action.startswith("dies") and num_before < int(action.removeprefix("dies")):
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "memory":
        raise MemoryError
    _spin(0.05)
    _log(answer, "end", name)
    return RIGHT


def num_begun(path: str, name: str) -> int:
    """The number of times that the grading of NAME has begun."""
    return sum(event == "begin" and who == name for event, who, _, _ in events(path))


def events(path: str) -> list[tuple[str, str, int, float]]:
    """The lines of the log in order: ("begin" or "end", name, pid, seconds)."""
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        lines = [line.split() for line in file]
    return [(event, name, int(pid), float(seconds)) for event, name, pid, seconds in lines]


def _log(path: str, event: str, name: str) -> None:
    line = f"{event} {name} {os.getpid()} {time.monotonic()}\n"
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, line.encode())
    os.close(file)


def _spin(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass
