"""Does rewriting a million problems take a hundred times what ten thousand take, and no more memory?

    python benchmarks/scaling.py [--sizes 10000 100000 1000000]

The real `ossft rewrite` on the real Ray Data, with a scripted policy and verifier in place of vLLM and Math-Verify, so
that what is measured is everything else: reading, laying out, handing out, logging, writing. Each size runs in a
process of its own, the driver, whose peak memory is told. Workers do not render prompts, which is part of an engine's
work. The last line is a JSON object.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ossft_ray.config import resolve
from ossft_ray.engines.vllm_policy import Sampling
from ossft_ray.method.prompts import Message
from ossft_ray.method.rewriting import Response
from ossft_ray.stages.rewrite import RewriteWorker, rewrite
from ossft_ray.verification import Verdict


class ScriptedPolicy:
    """Right with probability one half alone and with guidance, as the draw's seed says."""

    async def sample(self, prompt_ids: list[int], sampling: Sampling, seed: int, request_id: str) -> Response:
        rng = random.Random(seed)
        text = "right" if rng.random() < 0.5 else "wrong"
        return Response(text, [rng.randrange(500) for _ in range(64)], "stop")

    def shutdown(self) -> None:
        pass


class ScriptedWorker(RewriteWorker):
    def start_policy(self) -> Any:
        return ScriptedPolicy()

    async def render(self, prompt: list[Message]) -> list[int]:
        return [0]

    async def verify(self, answer: str, response: str) -> Verdict:
        return Verdict(response == "right", "correct" if response == "right" else "wrong")


def write_problems(path: Path, num_problems: int) -> None:
    with path.open("w") as file:
        for number in range(num_problems):
            row = {
                "id": f"p{number}",
                "problem": f"A farmer has {number} sheep and buys {number % 97} more. How many are there now?",
                "solution": f"{number} + {number % 97} = {number + number % 97}, so \\boxed{{{number + number % 97}}}.",
            }
            file.write(json.dumps(row) + "\n")


def run(size: int, folder: Path) -> dict[str, float]:
    """One rewrite of `size` problems in this process."""
    settings = {
        "run": {"output": str(folder / "run")},
        "policy": {"model": "playground"},
        "data": {"path": str(folder / "problems.jsonl"), "contamination": "ignore"},
        "rewrite": {"guided_alignment": {"max_copied": 1.0}},
    }
    began = time.monotonic()
    manifest = rewrite(resolve(settings), worker=ScriptedWorker)
    assert manifest["problems"] == size == sum(manifest["origins"].values())
    return {
        "seconds": time.monotonic() - began,
        "intake_seconds": manifest["phases"]["intake"],
        "driver_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


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
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print("\n" + json.dumps(run(arguments.only, arguments.folder)))
        return
    print(f"{'problems':>10}  {'seconds':>8}  {'reading':>8}  {'problems/s':>10}  {'driver peak, MiB':>16}")
    result: dict[str, float] = {}
    for size in arguments.sizes:
        figures = measure(size)
        rate = size / figures["seconds"]
        print(
            f"{size:>10}  {figures['seconds']:>8.0f}  {figures['intake_seconds']:>8.0f}  {rate:>10.0f}  "
            f"{figures['driver_peak_mib']:>16.0f}",
            flush=True,
        )
        result |= {
            f"problems_per_second_{size}": round(rate, 1),
            f"driver_peak_mib_{size}": round(figures["driver_peak_mib"]),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
