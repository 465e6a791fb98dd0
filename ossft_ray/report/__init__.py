"""`ossft report`: one self-contained HTML page about runs, made from their folders."""

from ossft_ray.report.page import report, report_runs

__all__ = ["report", "report_runs"]
