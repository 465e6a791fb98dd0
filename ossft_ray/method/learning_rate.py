"""The learning rate over a run."""

import math


def learning_rate_at(step: int, num_steps: int, peak: float, warmup_ratio: float, from_zero: bool = False) -> float:
    """Linear warm-up over the first `warmup_ratio` of the steps, then cosine to zero; `step` counts from 0.

    The rate is positive at the first and at the last step: it would reach zero only outside the run. With `from_zero`
    the warm-up begins with rate 0, as transformers' `get_cosine_schedule_with_warmup` does.
    """
    num_warmup = int(warmup_ratio * num_steps)
    if step < num_warmup and from_zero:
        return peak * step / num_warmup
    if step < num_warmup:
        return peak * (step + 1) / (num_warmup + 1)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - num_warmup) / (num_steps - num_warmup)))
