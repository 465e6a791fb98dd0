"""`ossft derive`: other runs from one run's recorded attempts."""

from ossft_ray.stages.derive.stage import derive

__all__ = ["derive"]
