"""A training worker that fails while the others wait for it. Workers import this module by its name."""

from collections.abc import Callable
from typing import Any

import ray.train
import torch

from ossft_ray.engines.training.forward import PolicyRunner


def run_out_of_memory(*_: Any, **__: Any) -> None:
    raise torch.OutOfMemoryError("tried to allocate 2.00 GiB")


class WorkerOneFails:
    """A stage's work, in which the forward pass of worker 1 fails."""

    def __init__(self, work: Callable[[dict[str, Any]], Any]) -> None:
        self.work = work

    def __call__(self, config: dict[str, Any]) -> Any:
        if ray.train.get_context().get_world_rank() == 1:
            PolicyRunner.forward = PolicyRunner.logprobs = run_out_of_memory
        return self.work(config)
