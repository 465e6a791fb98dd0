"""`train/metrics.jsonl`: one line per step, written by one worker and followed by the driver."""

from collections.abc import Iterator
from typing import Any

from ossft_ray.common.storage import Folder
from ossft_ray.run_folder.line_log import LineLog, read_lines
from ossft_ray.run_folder.names import METRICS


def continue_metrics(folder: Folder, after_step: int) -> LineLog:
    """Open the log to append after the line of a step.

    A killed run may have got beyond its last checkpoint. Those steps are repeated, so their lines are removed.
    """
    return LineLog(folder, METRICS, [line for line in read_metrics(folder) if line["step"] <= after_step])


def read_metrics(folder: Folder) -> list[dict[str, Any]]:
    """The metrics of all steps so far; empty before the first."""
    return read_lines(folder, METRICS)


class MetricsReader:
    """Follows the log and yields each step once, although a restarted worker repeats some."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._seen = read_metrics(folder)  # of an earlier session: the worker may still remove some
        self._last_step = 0

    def new_lines(self) -> Iterator[dict[str, Any]]:
        """The metrics of the steps since the last call."""
        lines = read_metrics(self._folder)
        if lines == self._seen:
            return
        self._seen = lines
        for metrics in lines:
            if metrics["step"] > self._last_step:
                self._last_step = metrics["step"]
                yield metrics
