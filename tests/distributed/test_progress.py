"""The driver's totals: each worker and each part counts once, by its latest report."""

import subprocess
import sys
from typing import Any
from unittest.mock import Mock

import pytest

from ossft_ray.distributed.progress import ProgressTally, announce

Report = tuple[str, str, dict[str, dict[str, int]]]  # actor, worker id, counts of the worker and of parts in progress


def local_tally() -> Any:
    return ProgressTally.__ray_metadata__.modified_class()


@pytest.mark.parametrize(
    "reports, expected",
    [
        ([], {"policies": 0}),
        (
            [
                ("actor1", "w1", {"w1": {"tokens": 5}, "part1": {"problems": 1}}),
                ("actor2", "w2", {"w2": {"tokens": 7}, "part2": {"problems": 2}}),
            ],
            {"policies": 2, "tokens": 12, "problems": 3},
        ),
        (
            [
                ("actor1", "w1", {"w1": {"tokens": 5}, "part1": {"problems": 1}}),
                ("actor1", "w1", {"w1": {"tokens": 9}, "part1": {"problems": 4}}),
            ],
            {"policies": 1, "tokens": 9, "problems": 4},
        ),
        (
            [
                ("actor1", "w1", {"w1": {"tokens": 5}, "part1": {"problems": 3}}),
                ("actor1", "w2", {"w2": {"tokens": 2}, "part1": {"problems": 1}}),
            ],
            {"policies": 1, "tokens": 7, "problems": 1},
        ),
        (
            [
                ("actor1", "w1", {"w1": {"tokens": 5}, "part1": {"problems": 3}}),
                ("actor1", "w1", {"w1": {"tokens": 6}}),
            ],
            {"policies": 1, "tokens": 6, "problems": 3},
        ),
    ],
    ids=["no worker", "two workers", "the latest report", "a restarted actor repeats a part", "a finished part stays"],
)
def test_totals(reports: list[Report], expected: dict[str, int]) -> None:
    tally = local_tally()
    for actor, worker_id, counts in reports:
        tally.report(actor, worker_id, counts, [])
    assert tally.totals() == expected


def test_only_callbacks_that_want_announcements_get_them() -> None:
    """A user's callback reads figures, such as `metrics["step"]`, and must not get anything else."""
    figures: list[Any] = []
    assert not announce(figures.append, starting="starting Ray") and figures == []
    hearing = Mock(hears_announcements=True)
    assert announce(hearing, starting="starting Ray")
    hearing.assert_called_once_with({"starting": "starting Ray"})


@pytest.mark.parametrize("num_workers, seconds", [(1, 0.5), (100, 0.5), (1000, 5.0)])
def test_many_workers_report_less_often(num_workers: int, seconds: float) -> None:
    tally = local_tally()
    for number in range(num_workers):
        wait_seconds = tally.report(f"actor{number}", f"w{number}", {}, [])
    assert wait_seconds == seconds


DROPS = """
class Ends:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)  # here KeyboardInterrupt is raised, and dropped

del_me = Ends()
del del_me
"""
REPLACES = """
before = signal.signal(signal.SIGINT, lambda *_: None)
os.kill(os.getpid(), signal.SIGINT)
time.sleep(0.1)
signal.signal(signal.SIGINT, before)
"""
SWALLOWS = """
import gc, os, signal, threading, time
from ossft_ray.common.errors import remember_interrupts
from ossft_ray.distributed.progress import poll_while_running

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
remember_interrupts()
{interrupt}
print("not interrupted yet", flush=True)
try:
    poll_while_running(lambda: time.sleep(60), lambda: None)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    os._exit(0)
"""


@pytest.mark.thorough
@pytest.mark.parametrize("interrupt", [DROPS, REPLACES], ids=["dropped by Python", "caught by another handler"])
def test_a_lost_ctrl_c_still_ends_the_wait(interrupt: str) -> None:
    program = SWALLOWS.format(interrupt=interrupt)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["not interrupted yet", "interrupted"], done.stderr
