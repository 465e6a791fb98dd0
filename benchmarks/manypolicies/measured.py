"""The real `ossft rewrite` with many policies on scripted engines: real Ray Data, actors, tally, logs and files.

Two cores cannot run 256 processes, so with more than 16 policies several share one actor's process. Each keeps its own
window, slots, logs and reports to the tally. Ray Data sees 16 actors that hold correspondingly more parts at once. An
actor gives a part to the policy that holds fewest, which is also Ray Data's rule. All actors start together.
"""

import asyncio
import contextlib
import os
import struct
import threading
import time
import uuid
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray

from manypolicies.plan import part_sizes, parts_at_once
from manypolicies.usage import Draw, Usage, usage
from manypolicies.workload import SEED, Workload, write_problems
from ossft_ray.common.prompt_templates import Message
from ossft_ray.common.types import Problem, Response
from ossft_ray.config import Experiment, resolve
from ossft_ray.engines.in_flight import InFlight
from ossft_ray.engines.vllm_policy import Sampling
from ossft_ray.stages.rewrite.ingest import part_capacity
from ossft_ray.stages.rewrite.stage import rewrite
from ossft_ray.stages.rewrite.worker import RewriteWorker
from ossft_ray.verification import Verdict

_RECORD = struct.Struct("dd")  # begin and end of sampling a response, on the monotonic clock
_MEASURE_SECONDS = 0.5


class ScriptedEngine:
    """Answers as the workload says, after the time it says, and records each response in its own file."""

    def __init__(self, workload: Workload, folder: Path) -> None:
        self._workload, self._slots = workload, asyncio.Semaphore(workload.slots)
        self._file = os.open(folder / uuid.uuid4().hex, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def sample(self, prompt_ids: list[int], sampling: Sampling, seed: int, request_id: str) -> Response:
        problem_id, stage, _ = request_id.split("/")
        seconds, is_right = self._workload.draw(problem_id, stage, seed)
        async with self._slots:
            begin = time.monotonic()
            try:
                await asyncio.sleep(seconds)
            finally:  # a late wake-up does not count as the engine's time
                os.write(self._file, _RECORD.pack(begin, min(time.monotonic(), begin + seconds)))
        return Response("right" if is_right else "wrong", [seed % 500] * 64, "stop")

    def shutdown(self) -> None:
        os.close(self._file)


class ScriptedWorker(RewriteWorker):
    def __init__(self, workload: Workload, draws: Path, **keywords: Any) -> None:
        super().__init__(**keywords)
        self._workload, self._draws = workload, draws
        self.in_flight = InFlight(workload.window, workload.spare_below)

    def start_policy(self) -> Any:
        return ScriptedEngine(self._workload, self._draws)

    async def render(self, prompt: list[Message]) -> list[int]:
        return [0]

    async def verify(self, problem: Problem, response: str) -> Verdict:
        return Verdict(response == "right", "correct" if response == "right" else "wrong")


@dataclass(frozen=True)
class Settings:
    workload: Workload
    num_policies: int
    num_actors: int
    folder: Path

    @property
    def draws(self) -> Path:
        return self.folder / "draws"

    @property
    def ready(self) -> Path:
        return self.folder / "ready"


class PolicyHost:
    """An actor with several policies. `rewrite` creates it, so a subclass holds the benchmark's settings."""

    settings: Settings

    def __init__(self, **keywords: Any) -> None:
        settings = self.settings
        self._workers = [
            ScriptedWorker(settings.workload, settings.draws, **keywords)
            for _ in range(settings.num_policies // settings.num_actors)
        ]
        self._held = [0] * len(self._workers)
        (settings.ready / uuid.uuid4().hex).touch()

    async def __call__(self, batch: dict[str, Any]) -> Any:
        while len(os.listdir(self.settings.ready)) < self.settings.num_actors:
            await asyncio.sleep(0.2)
        policy = min(range(len(self._held)), key=self._held.__getitem__)
        self._held[policy] += 1
        try:
            async for result in self._workers[policy](batch):
                yield result
        finally:
            self._held[policy] -= 1


@dataclass(frozen=True)
class Measured:
    """Processor seconds, by role, count from the first response to the last."""

    usage: Usage
    num_parts: int
    parts_at_once: int
    processor_seconds: dict[str, float]
    actor_mib: float  # the largest, resident


def measure(settings: Settings) -> Measured:
    """One rewrite in this process, which is its driver."""
    workload, num_problems = settings.workload, settings.workload.problems_per_policy * settings.num_policies
    for folder in (settings.draws, settings.ready):
        folder.mkdir()
    data = settings.folder / "problems.jsonl"
    write_problems(data, num_problems)
    num_parts = len(part_sizes(num_problems, part_capacity))
    at_once = parts_at_once(workload, settings.num_policies, num_parts, num_problems)
    # the window with which an actor holds as many parts at once as all its policies together
    parts_of_actor = at_once * (settings.num_policies // settings.num_actors)
    window = max(1, (parts_of_actor - 1) * num_problems // num_parts)

    ray.init(address="local", num_cpus=64, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    watch = ProcessWatch()
    watch.start()
    worker: Any = type("ScriptedHost", (PolicyHost,), {"settings": settings})
    manifest = rewrite(_experiment(settings, data, window), worker=worker)
    watch.ended.set()
    watch.join()
    ray.shutdown()
    assert manifest["problems"] == num_problems == sum(manifest["origins"].values())
    draws = [_read_draws(path) for path in settings.draws.iterdir()]
    draws += [[]] * (settings.num_policies - len(draws))
    all_draws = [draw for of_policy in draws for draw in of_policy]
    begin, end = min(start for start, _ in all_draws), max(stop for _, stop in all_draws)
    return Measured(
        usage=usage(draws, workload.slots),
        num_parts=num_parts,
        parts_at_once=at_once,
        processor_seconds=watch.between(begin, end),
        actor_mib=watch.actor_mib,
    )


def _experiment(settings: Settings, data: Path, window: int) -> Experiment:
    return resolve(
        {
            "run": {"output": str(settings.folder / "run"), "seed": SEED},
            "policy": {"model": "playground"},
            "data": {"path": str(data), "contamination": "ignore"},
            "rewrite": {"guided_alignment": {"max_copied": 1.0, "require_derivation": False}},
            "resources": {"num_policies": settings.num_actors, "problems_in_flight": window},
        }
    )


def _read_draws(path: Path) -> list[Draw]:
    content = path.read_bytes()
    return [_RECORD.unpack_from(content, at) for at in range(0, len(content), _RECORD.size)]


ROLES = {"gcs_server": "gcs", "raylet": "raylet", "ray::ProgressTally": "tally", "ray::MapWorker": "actors"}


class ProcessWatch(threading.Thread):
    """Measures twice a second the processor time of this process and its descendants, by role."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.ended = threading.Event()
        self.actor_mib = 0.0
        self._measurements: list[tuple[float, dict[str, float]]] = []
        self._roles: dict[int, str] = {os.getpid(): "driver"}
        self._used: dict[int, float] = {}  # processor seconds, including processes that have ended

    def run(self) -> None:
        this = psutil.Process()
        while not self.ended.wait(_MEASURE_SECONDS):
            for process in [this, *this.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    times = process.cpu_times()
                    self._used[process.pid] = times.user + times.system
                    if self._role(process) == "actors":
                        self.actor_mib = max(self.actor_mib, process.memory_info().rss / 2**20)
            by_role: dict[str, float] = defaultdict(float)
            for pid, seconds in self._used.items():
                by_role[self._roles.get(pid, "other")] += seconds
            self._measurements.append((time.monotonic(), dict(by_role)))

    def between(self, begin: float, end: float) -> dict[str, float]:
        """Processor seconds between the first measurements after these times."""
        first = next(used for at, used in self._measurements if at >= begin)
        last = next((used for at, used in self._measurements if at >= end), self._measurements[-1][1])
        return {role: last[role] - first.get(role, 0.0) for role in last}

    def _role(self, process: psutil.Process) -> str:
        if process.pid not in self._roles:
            line = " ".join(process.cmdline())
            role = next((role for name, role in ROLES.items() if name in line.partition(" --")[0]), "")
            if not role:  # a worker process has no name until its actor starts
                return "other"
            self._roles[process.pid] = role
        return self._roles[process.pid]
