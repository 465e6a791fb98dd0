"""A rewriting worker that records how much memory its policy takes."""

import asyncio
from contextlib import suppress

import psutil
import ray

from ossft_ray.common.storage import Folder
from ossft_ray.engines.gpus import used_gpu_memory
from ossft_ray.stages.rewrite.worker import RewriteWorker

MEMORY = "memory"  # sub-folder of the probe: one file for each part


class ProbeWorker(RewriteWorker):
    """Rewrites like any other worker, and writes its memory in bytes after each part."""

    async def process(self, part: str) -> None:
        await super().process(part)
        memory = await asyncio.to_thread(_used_memory)
        (Folder.at(self.experiment.run.output) / MEMORY).write_json(f"{part}.json", memory)


def _used_memory() -> int:
    """Bytes in use on this actor's GPUs, by any process; without GPUs, resident in this process and its children."""
    if gpu_ids := ray.get_gpu_ids():
        return used_gpu_memory(gpu_ids)
    this, resident = psutil.Process(), 0
    for process in [this, *this.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            resident += process.memory_info().rss
    return resident
