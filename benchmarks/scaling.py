"""Rewriting at scale: time and memory for up to a million problems, and the use of up to a thousand engines.

    python benchmarks/scaling.py [--sizes 10000 100000 1000000]
    python benchmarks/scaling.py --simulate [--policies 1 4 16 64 256]

It runs the real `ossft rewrite` on Ray Data, with a scripted policy and verifier in place of vLLM and Math-Verify, so
it measures the rest: reading, sharding, distributing, logging and writing. Each size runs in a separate process, the
driver; the table shows its peak memory and that of the largest worker. Processor time covers all processes, including
Ray's, and is more reliable than the clock on a busy machine. Workers do not render prompts.

With `--simulate`, many policies run with scripted engines that take time: the table shows how much of the engines' time
rewriting uses, what stragglers cost, and the driver's share (`manypolicies/`). The last line is a JSON object.
"""

import argparse
import contextlib
import json
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from manypolicies.page import ACTORS, measured_figures, print_measured, print_simulated
from manypolicies.workload import write_problems

from ossft_ray.common.prompt_templates import Message
from ossft_ray.common.types import Problem, Response
from ossft_ray.config import resolve
from ossft_ray.engines.vllm_policy import Sampling
from ossft_ray.stages.rewrite.stage import rewrite
from ossft_ray.stages.rewrite.worker import RewriteWorker
from ossft_ray.verification import Verdict


class ScriptedPolicy:
    """Responses that are right with probability one half in both stages, determined by the seed."""

    async def sample(self, prompt_ids: list[int], sampling: Sampling, seed: int, request_id: str) -> Response:
        rng = random.Random(seed)
        return Response("right" if rng.random() < 0.5 else "wrong", [seed % 500] * 64, "stop")

    def shutdown(self) -> None:
        pass


class ScriptedWorker(RewriteWorker):
    def start_policy(self) -> Any:
        return ScriptedPolicy()

    async def render(self, prompt: list[Message]) -> list[int]:
        return [0]

    async def verify(self, problem: Problem, response: str) -> Verdict:
        return Verdict(response == "right", "correct" if response == "right" else "wrong")


def run(size: int, folder: Path) -> dict[str, float]:
    """One rewrite of `size` problems in this process."""
    settings = {
        "run": {"output": str(folder / "run")},
        "policy": {"model": "playground"},
        "data": {"path": str(folder / "problems.jsonl"), "contamination": "ignore"},
        "rewrite": {"guided_alignment": {"max_copied": 1.0, "require_derivation": False}},
    }
    began, watch = time.monotonic(), ProcessWatch()
    watch.start()
    manifest = rewrite(resolve(settings), worker=ScriptedWorker)
    watch.ended.set()
    assert manifest["problems"] == size == sum(manifest["origins"].values())
    return {
        "seconds": time.monotonic() - began,
        "ingest_seconds": manifest["phases"]["reading data"],
        "processor_seconds": sum(watch.processor_seconds.values()),
        "driver_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "worker_peak_mib": watch.worker_peak_mib,
    }


class ProcessWatch(threading.Thread):
    """Measures this process and its descendants once a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.ended = threading.Event()
        self.processor_seconds: dict[int, float] = {}
        self.worker_peak_mib = 0.0

    def run(self) -> None:
        this = psutil.Process()
        while not self.ended.wait(1.0):
            for process in [this, *this.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    times = process.cpu_times()
                    self.processor_seconds[process.pid] = times.user + times.system
                    if "MapWorker" in " ".join(process.cmdline()):
                        self.worker_peak_mib = max(self.worker_peak_mib, process.memory_info().rss / 2**20)


def measure(size: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_problems(folder / "problems.jsonl", size)
        command = [sys.executable, __file__, "--only", str(size), "--folder", name]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{size} problems failed: {done.stderr[-2000:]}")
        figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--simulate", action="store_true", help="run many policies with scripted engines")
    parser.add_argument("--policies", type=int, nargs="*", choices=list(ACTORS), default=list(ACTORS))
    parser.add_argument("--problems-per-policy", type=int, default=48)
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--only-policies", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print("\n" + json.dumps(run(arguments.only, arguments.folder)))
        return
    if arguments.only_policies:
        print("\n" + json.dumps(measured_figures(*arguments.only_policies)))
        return
    if arguments.simulate:
        figures = print_measured(arguments.policies, arguments.problems_per_policy)
        print(json.dumps(figures | print_simulated(arguments.problems_per_policy)))
        return
    columns = ("problems", "seconds", "reading, s", "problems/s", "processor ms each", "driver MiB", "worker MiB")
    print("  ".join(f"{column:>12}" for column in columns))
    result: dict[str, float] = {}
    for size in arguments.sizes:
        figures = measure(size)
        rate, each = size / figures["seconds"], 1000 * figures["processor_seconds"] / size
        row = (
            f"{size}",
            f"{figures['seconds']:.0f}",
            f"{figures['ingest_seconds']:.0f}",
            f"{rate:.0f}",
            f"{each:.2f}",
            f"{figures['driver_peak_mib']:.0f}",
            f"{figures['worker_peak_mib']:.0f}",
        )
        print("  ".join(f"{cell:>{max(12, len(name))}}" for cell, name in zip(row, columns, strict=True)), flush=True)
        result |= {
            f"problems_per_second_{size}": round(rate, 1),
            f"processor_ms_per_problem_{size}": round(each, 3),
            f"driver_peak_mib_{size}": round(figures["driver_peak_mib"]),
            f"worker_peak_mib_{size}": round(figures["worker_peak_mib"]),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
