"""`ossft train`: rewritten examples in, a trained model out."""

from ossft_ray.stages.train.stage import train

__all__ = ["train"]
