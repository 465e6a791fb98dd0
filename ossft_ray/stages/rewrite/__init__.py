"""`ossft rewrite`: make the data on-policy."""

from ossft_ray.stages.rewrite.stage import rewrite

__all__ = ["rewrite"]
