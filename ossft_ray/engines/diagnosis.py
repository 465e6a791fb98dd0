"""What went wrong in a step, for whom, and what to change: one line for each way in which training dies."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ossft_ray.errors import JobError

_SHOWN = 8


def refuse_non_finite(name: str, value: float, step: int, problem_ids: list[str]) -> None:
    """Stop where a figure is no number any more.

    Raises:
        JobError: names the step and the problems of its batch.
    """
    if not math.isfinite(value):
        raise JobError(
            f"train: the {name} of step {step} is {value}; its problems: {listed(problem_ids)}; "
            'lower train.learning_rate, or set train.precision = "fp32"'
        )


@contextmanager
def explain_out_of_memory(step: int, problem_ids: list[str]) -> Iterator[None]:
    """Turn a failed allocation, on a GPU or in main memory, into what to change.

    Raises:
        JobError: names the step and the problems of its batch.
    """
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one; the CPU's allocator knows no kind of its own
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise JobError(
            f"train: out of memory in step {step}; its problems: {listed(problem_ids)}; lower "
            "train.micro_batch_tokens or max_length, set train.activation_checkpointing = true, raise zero_stage or "
            f"the number of workers, or set train.offload ({str(error).splitlines()[0]})"
        ) from error


def listed(problem_ids: list[str]) -> str:
    more = f" and {len(problem_ids) - _SHOWN} more" if len(problem_ids) > _SHOWN else ""
    return f"{', '.join(problem_ids[:_SHOWN])}{more}"
