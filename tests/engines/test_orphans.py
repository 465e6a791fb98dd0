"""The children of a process that is killed."""

import subprocess
import sys
import time

import psutil
import pytest

pytestmark = pytest.mark.thorough

PARENT = """
import multiprocessing, subprocess, sys, time
from ossft_ray.engines.orphans import end_engines_with_this_process
end_engines_with_this_process()
sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
subprocess.Popen(sleep)
multiprocessing.get_context("spawn").Process(target=subprocess.run, args=(sleep,)).start()
time.sleep(600)
"""


def test_engines_of_a_killed_process_end() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT])
    try:
        deadline, below = time.monotonic() + 60, list[psutil.Process]()
        # the watcher, the user's own process, multiprocessing's resource tracker, the engine and its child
        while len(below) < 5:
            assert time.monotonic() < deadline and parent.poll() is None
            time.sleep(0.1)
            below = psutil.Process(parent.pid).children(recursive=True)
        commands = {process: " ".join(process.cmdline()) for process in below}
        time.sleep(3)  # until the watcher has seen them
    finally:
        parent.kill()
        parent.wait()
    others = [process for process, command in commands.items() if "time.sleep(60)" in command]
    _, alive = psutil.wait_procs([process for process in below if process not in others], timeout=10)
    assert alive == []
    assert len(others) == 2 and all(process.is_running() for process in others), "others are none of its business"
    for process in others:
        process.kill()
