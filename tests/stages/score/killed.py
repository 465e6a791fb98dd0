"""`ossft score` as a process that is killed once it has written something."""

import subprocess
import sys
import time
from pathlib import Path

import psutil


def kill_once_written(config: Path, run: Path, pattern: str) -> dict[str, int]:
    """Score until a file of `run/score` matches, then kill the driver and its workers; the files' times by name."""
    log, folder = config.with_suffix(".log"), run / "score"
    with log.open("wb") as output:
        command = [str(Path(sys.executable).with_name("ossft")), "score", "--config", str(config)]
        driver = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 300
    while not list(folder.glob(pattern)):
        assert driver.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.001)
    below = psutil.Process(driver.pid).children(recursive=True)
    workers = [process for process in below if "RayTrainWorker" in " ".join(process.cmdline())]
    driver.kill()
    driver.wait()
    for process in workers:
        process.kill()
    psutil.wait_procs(workers, timeout=60)
    return written_at(run, pattern)


def written_at(run: Path, pattern: str) -> dict[str, int]:
    """When each file of `run/score` that matches was written, in nanoseconds."""
    return {path.name: path.stat().st_mtime_ns for path in (run / "score").glob(pattern)}
