"""Errors of a failed step: one line with the reason, the step's problems, and what to change."""

import math
import re
import statistics
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from ossft_ray.common.errors import JobError, brief

_MAX_LISTED = 8  # problems in a message
_MAX_NORMS, _MIN_NORMS = 50, 10  # gradient norms kept, and needed to judge a new one
# of the CPU's allocator, CUDA's libraries and pinned memory, whose errors have no class of their own
_NO_MEMORY = re.compile("can't allocate memory|out of memory|_ALLOC_FAILED")
_LESS_MEMORY = {
    "train": "lower train.micro_batch_tokens or max_length, set train.activation_checkpointing = true, raise "
    "zero_stage, use more workers, or set train.offload",
    "score": "lower train.micro_batch_tokens or max_length, or set train.zero_stage = 3 and use more workers",
}


def raise_if_not_finite(name: str, value: float, step: int, problem_ids: list[str]) -> None:
    """Raise JobError, with the step and the problems of its batch, if a figure is infinite or not a number."""
    if not math.isfinite(value):
        raise JobError(
            f"train: the {name} of step {step} is {value}; its problems: {_listed(problem_ids)}; "
            'lower train.learning_rate, or set train.precision = "fp32"'
        )


class GradientWatch:
    """The gradient norms of the last steps, against which a new one is judged."""

    def __init__(self, max_jump: float, norms: Sequence[float] = ()) -> None:
        """`max_jump` is a multiple of the median, 0 allows all; `norms` are those of a run that is resumed."""
        self._max_jump = max_jump
        self.norms = deque(norms, maxlen=_MAX_NORMS)

    def raise_if_exploding(self, norm: float, step: int, problem_ids: list[str]) -> None:
        """Record the norm of a step; raise JobError if it is not finite, or over `max_jump` times the usual one."""
        raise_if_not_finite("gradient norm", norm, step, problem_ids)
        if self._max_jump and len(self.norms) >= _MIN_NORMS:
            usual = statistics.median(self.norms)
            if norm > self._max_jump * usual:
                raise JobError(
                    f"train: the gradient exploded in step {step}: its norm is {norm:.3g}, where {usual:.3g} is usual; "
                    f"its problems: {_listed(problem_ids)}; look at these examples, lower train.learning_rate, or "
                    "raise train.max_grad_norm_jump"
                )
        self.norms.append(norm)


@contextmanager
def explain_out_of_memory(stage: str, where: str, problem_ids: Sequence[str] = ()) -> Iterator[None]:
    """Turn a failed allocation, on a GPU or in main memory, into a JobError with the problems and what to change."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and not _NO_MEMORY.search(str(error)):
            raise
        problems = f"its problems: {_listed(problem_ids)}; " if problem_ids else ""
        raise JobError(
            f"{stage}: out of memory in {where}; {problems}{_LESS_MEMORY[stage]} ({brief(error)})"
        ) from error


def _listed(problem_ids: Sequence[str]) -> str:
    more = f" and {len(problem_ids) - _MAX_LISTED} more" if len(problem_ids) > _MAX_LISTED else ""
    return f"{', '.join(problem_ids[:_MAX_LISTED])}{more}"
