"""`ossft check`: validate an experiment before anything is spent."""

from ossft_ray.stages.check.stage import check

__all__ = ["check"]
