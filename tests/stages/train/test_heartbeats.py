"""Naming the worker that hangs."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from test_train_faults import at_step, start, wait_until, workers, write_experiment

from ossft_ray.stages.train.heartbeats import Position, describe_hang


@pytest.mark.parametrize(
    "positions, silent, expected",
    [
        (
            {0: (3, 1, 1), 1: (3, 1, 0)},
            [],
            "behind the others: worker 1, last seen in step 3, forward of micro-batch 2",
        ),
        (
            {0: (3, 0, 1), 1: (3, 0, 1), 2: (2, 4, 3)},
            [],
            "behind the others: worker 2, last seen in step 2, report;",
        ),
        ({0: (3, 0, 0), 1: (3, 0, 1), 2: (3, 0, 0)}, [], "behind the others: worker 0 and 2, last seen"),
        ({0: (3, 0, 0), 1: (3, 0, 1)}, [1], "silent: worker 1, last seen in step 3, backward of micro-batch 1"),
        ({0: (3, 0, 3), 1: (3, 0, 3)}, [1], "silent: worker 1, last seen in step 3, report"),
        ({0: (3, 0, 1), 1: (3, 0, 1)}, [], "all workers are in step 3, backward of micro-batch 1; look at the network"),
    ],
)
def test_the_worker_that_is_silent_or_behind_is_named(
    positions: dict[int, Position], silent: list[int], expected: str
) -> None:
    line = describe_hang(1800.4, positions, silent)
    assert expected in line and "1800 s (train.hang_after)" in line


@pytest.mark.long
def test_a_worker_that_hangs_is_named_and_the_run_ends(tmp_path: Path) -> None:
    config = write_experiment(tmp_path, hang_after="8s", epochs=40)
    driver = start(config)
    wait_until(driver, lambda: len(workers(driver.pid)) == 2, config)
    wait_until(driver, at_step(config, 2), config)
    victim = workers(driver.pid)[1]
    os.kill(victim.pid, signal.SIGSTOP)
    try:
        assert driver.wait(120) == 1
    except subprocess.TimeoutExpired:
        driver.kill()
        raise
    finally:
        if victim.is_running():
            victim.kill()
    output = (tmp_path / "output.txt").read_text()
    last = output.strip().splitlines()[-1]
    assert re.match(
        r"error: train: no worker has moved for \d+ s .*silent: worker [01], last seen in step \d+", last
    ), last
