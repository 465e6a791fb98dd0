"""The learning rate over a run."""

import math


def learning_rate_at(step: int, num_steps: int, peak: float, warmup_ratio: float) -> float:
    """Linear warm-up over the first `warmup_ratio` of the steps, then cosine to zero; `step` counts from 0.

    The rate is positive at the first and at the last step: it would reach zero only outside the run.
    """
    num_warmup = int(warmup_ratio * num_steps)
    if step < num_warmup:
        return peak * (step + 1) / (num_warmup + 1)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - num_warmup) / (num_steps - num_warmup)))
