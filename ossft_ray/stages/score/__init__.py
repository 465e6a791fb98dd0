"""`ossft score`: the policy gap."""

from ossft_ray.stages.score.stage import score

__all__ = ["score"]
