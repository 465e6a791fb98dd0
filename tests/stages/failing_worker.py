"""A training worker that fails while the others wait for it. Workers import this module by its name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray.train
import torch

from ossft_ray.engines.training.forward import PolicyRunner


def run_out_of_memory(*_: Any, **__: Any) -> None:
    raise torch.OutOfMemoryError("tried to allocate 2.00 GiB")


class WorkerOneFails:
    """A stage's work, in which worker 1 runs out of memory in its forward pass, or earlier in DeepSpeed."""

    def __init__(self, work: Callable[[dict[str, Any]], Any], in_deepspeed: bool, attempts: Path) -> None:
        """`attempts` is a file that gets a character each time worker 1 begins."""
        self.work, self.in_deepspeed, self.attempts = work, in_deepspeed, attempts

    def __call__(self, config: dict[str, Any]) -> Any:
        if ray.train.get_context().get_world_rank() == 1:
            with self.attempts.open("a") as file:
                file.write("x")
            if self.in_deepspeed:
                import deepspeed

                deepspeed.initialize = run_out_of_memory
            else:
                PolicyRunner.forward = PolicyRunner.logprobs = run_out_of_memory
        return self.work(config)
