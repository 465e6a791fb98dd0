"""`ossft evaluate`: avg@k, pass@k and maj@k of several models on benchmarks."""

from ossft_ray.stages.evaluate.stage import evaluate

__all__ = ["evaluate"]
