"""`ossft report`: one self-contained HTML page about a run, from what lies in its folder."""

from ossft_ray.report.page import report

__all__ = ["report"]
