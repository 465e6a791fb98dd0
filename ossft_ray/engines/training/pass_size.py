"""How many tokens go into one forward and backward pass: as many as fit, learnt from the memory of earlier passes."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ossft_ray.config import Train

_NUM_LEARNING_STEPS = 3
_MOST_GROWTH = 4.0  # from one step to the next; memory is not exactly proportional to the tokens
_MARGIN = 0.9  # of the memory; the rest is for fragments and for what other libraries take


class PassSize:
    """`train.micro_batch_tokens` as a number. `auto` begins with `max_length` and grows in a GPU's first steps."""

    def __init__(self, settings: Train, device: torch.device | str) -> None:
        is_auto = settings.micro_batch_tokens == "auto"
        self.tokens = settings.least_pass_tokens
        self._device = torch.device(device)
        self._steps_to_learn = _NUM_LEARNING_STEPS if is_auto and self._device.type == "cuda" else 0
        self._fitting = float(self.tokens)
        self._peak_bytes = 0  # of passes before the last measured one

    @contextmanager
    def measured(self, number: int, num_tokens: int) -> Iterator[None]:
        """Run pass `number` of a step, with `num_tokens` tokens.

        The second pass counts, or the only one: passes are sorted by their tokens, the last may be small, and the
        second finds the gradients allocated.
        """
        if not self._steps_to_learn or not num_tokens or number > 1:
            yield
            return
        before = torch.cuda.memory_allocated(self._device)
        self._peak_bytes = self.peak_bytes
        torch.cuda.reset_peak_memory_stats(self._device)
        yield
        used = torch.cuda.max_memory_allocated(self._device) - before
        free, _ = torch.cuda.mem_get_info(self._device)  # what other processes and libraries use is not free
        available = free + torch.cuda.memory_reserved(self._device)
        self._fitting = fitting_tokens(num_tokens, used, _MARGIN * available - before)

    @property
    def peak_bytes(self) -> int:
        """The most memory that this worker has used so far: of its GPU, else of main memory."""
        if self._device.type != "cuda":
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return max(self._peak_bytes, int(torch.cuda.max_memory_allocated(self._device)))

    def grow(self) -> None:
        """After a step: take what fits on all workers; a collective call."""
        if not self._steps_to_learn:
            return
        self._steps_to_learn -= 1
        fitting = torch.tensor(min(self._fitting, _MOST_GROWTH * self.tokens), device=self._device)
        torch.distributed.all_reduce(fitting, torch.distributed.ReduceOp.MIN)
        self.tokens = max(self.tokens, int(fitting.item()))


def fitting_tokens(num_tokens: int, used_bytes: int, free_bytes: float) -> float:
    """The tokens of a pass that takes `free_bytes`, if one of `num_tokens` took `used_bytes`.

    >>> fitting_tokens(2048, 6 * 2**30, 24 * 2**30)
    8192.0
    """
    return num_tokens * free_bytes / max(1, used_bytes)
