"""The process group of a test: workers that begin with DeepSpeed imported, and join the group first."""

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ossft_ray.config import Train
from ossft_ray.engines.training import deepspeed_engine


def run_in_group(work: Callable[..., None], num_workers: int, *arguments: Any) -> None:
    """Run `work(rank, *arguments)` in new processes, forked from one that imports the libraries once for all tests."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(["tests.engines.preloaded"])
    torch.multiprocessing.start_processes(work, arguments, num_workers, start_method="forkserver")


def join_group(rank: int, num_workers: int, folder: Path) -> None:
    """Join the group through a file in `folder`, and let ZeRO-3 shard parameters as small as the playground's."""
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": str(num_workers), "LOCAL_RANK": str(rank), "DS_ACCELERATOR": "cpu"
    }  # fmt: skip
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/group", rank=rank, world_size=num_workers
    )
    # by default DeepSpeed does not shard parameters as small as these
    plain_config = deepspeed_engine.deepspeed_config

    def sharding_config(settings: Train, *arguments: Any) -> dict[str, Any]:
        config = plain_config(settings, *arguments)
        if settings.zero_stage == 3:
            config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        return config

    deepspeed_engine.deepspeed_config = sharding_config
