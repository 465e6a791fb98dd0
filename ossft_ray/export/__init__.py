"""`ossft export`: a run's examples as a data set for other trainers, with a data-set card."""

from ossft_ray.export.export import Exported, export

__all__ = ["Exported", "export"]
