"""What does a policy at work take? A rewriting worker that times each request to its engine and looks at its memory."""

import asyncio
import time
from typing import Any

import psutil
import ray

from ossft_ray.common.prompt_templates import Message
from ossft_ray.common.storage import Folder
from ossft_ray.common.types import Response
from ossft_ray.engines.gpus import driver_gpus
from ossft_ray.engines.vllm_policy import Sampling
from ossft_ray.stages.check.throughput import Span
from ossft_ray.stages.rewrite.worker import RewriteWorker

PROBED = "probed"  # sub-folder of the probe: a file for each policy


class ProbeWorker(RewriteWorker):
    """Rewrites as any, and tells for each part that it finishes what it has seen so far."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.spans: list[Span] = []
        self.memory = 0  # bytes, the most that was seen

    async def sample(self, prompt: list[Message], sampling: Sampling, seed: int, request_id: str) -> Response:
        began = time.monotonic()
        response = await super().sample(prompt, sampling, seed, request_id)
        began = max(began, self._ready_at)  # the engine's start is no part of a request
        self.spans.append(Span(began, time.monotonic(), len(response.token_ids)))
        return response

    async def process(self, part: str) -> None:
        await super().process(part)
        self.memory = max(self.memory, await asyncio.to_thread(own_memory_bytes))
        seen = {"spans": self.spans, "memory": self.memory}
        (Folder.at(self.experiment.run.output) / PROBED).write_json(f"{self.worker_id}.json", seen)


def own_memory_bytes() -> int:
    """In use on this actor's GPUs, by whomever; without GPUs, resident in its processes and those below it.

    Pages that processes share count for each of them.
    """
    if names := ray.get_gpu_ids():
        gpus = driver_gpus()
        indices = [int(name) for name in names if str(name).isdigit()]  # else they are names of parts of a GPU
        return sum(gpus[index].used_bytes for index in indices if index < len(gpus))
    this = psutil.Process()
    resident = 0
    for process in [this, *this.children(recursive=True)]:
        try:
            resident += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return resident
