"""What went wrong in a step, for whom, and what to change: one line for each way in which training dies."""

import math
import statistics
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from ossft_ray.common.errors import JobError

_SHOWN = 8
_REMEMBERED, _ENOUGH = 50, 10  # gradient norms: so many are kept, and with fewer nothing is said


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


class GradientWatch:
    """The gradient norms of the last steps, and whether a new one is out of all proportion."""

    def __init__(self, max_jump: float, norms: Sequence[float] = ()) -> None:
        """`max_jump`: times the median; 0 allows all. `norms`: what a run that goes on has seen before."""
        self._max_jump = max_jump
        self.norms = deque(norms, maxlen=_REMEMBERED)

    def refuse_explosion(self, norm: float, step: int, problem_ids: list[str]) -> None:
        """Take in the norm of a step.

        Raises:
            JobError: it is no number, or `max_jump` times the median of the norms before; names the step and the
                problems of its batch.
        """
        refuse_non_finite("gradient norm", norm, step, problem_ids)
        if self._max_jump and len(self.norms) >= _ENOUGH:
            usual = statistics.median(self.norms)
            if norm > self._max_jump * usual:
                raise JobError(
                    f"train: the gradient exploded in step {step}: its norm is {norm:.3g}, where {usual:.3g} is usual; "
                    f"its problems: {listed(problem_ids)}; look at these examples, lower train.learning_rate, or raise "
                    "train.max_grad_norm_jump"
                )
        self.norms.append(norm)


@contextmanager
def explain_out_of_memory(step: int, problem_ids: list[str]) -> Iterator[None]:
    """Turn a failed allocation in training into what to change.

    Raises:
        JobError: names the step and the problems of its batch.
    """
    mend = (
        "lower train.micro_batch_tokens or max_length, set train.activation_checkpointing = true, raise zero_stage or "
        "the number of workers, or set train.offload"
    )
    with _explained(f"train: out of memory in step {step}", problem_ids, mend):
        yield


@contextmanager
def explain_out_of_memory_in_scoring(part: str, problem_ids: list[str]) -> Iterator[None]:
    """Turn a failed allocation in scoring into what to change.

    Raises:
        JobError: names the part and its problems.
    """
    mend = "lower train.micro_batch_tokens or max_length, or set train.zero_stage = 3 and raise the number of workers"
    with _explained(f"score: out of memory in {part}", problem_ids, mend):
        yield


@contextmanager
def _explained(what: str, problem_ids: list[str], mend: str) -> Iterator[None]:
    """On a GPU or in main memory."""
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one; the CPU's allocator knows no kind of its own
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise JobError(f"{what}; its problems: {listed(problem_ids)}; {mend} ({str(error).splitlines()[0]})") from error


def listed(problem_ids: list[str]) -> str:
    more = f" and {len(problem_ids) - _SHOWN} more" if len(problem_ids) > _SHOWN else ""
    return f"{', '.join(problem_ids[:_SHOWN])}{more}"
