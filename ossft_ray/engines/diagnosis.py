"""What went wrong in a step, for whom, and what to change: one line for each way in which training dies."""

import math

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


def listed(problem_ids: list[str]) -> str:
    more = f" and {len(problem_ids) - _SHOWN} more" if len(problem_ids) > _SHOWN else ""
    return f"{', '.join(problem_ids[:_SHOWN])}{more}"
