"""`metrics.jsonl`: a line a step, written by one worker, read by the driver while training goes on."""

import json
import time
from collections.abc import Iterator
from typing import Any

from ossft_ray.common.storage import Folder
from ossft_ray.run_folder.names import METRICS

_UPLOAD_SECONDS = 10.0


class MetricsLog:
    """The writing side. A line stands on disk as soon as its step is done; an object store, which cannot append,
    gets the whole file every few seconds."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self._lines: list[str] = []
        self._uploaded = 0.0

    def cut(self, after_step: int) -> None:
        """Begin, or go on after `after_step`: steps that a killed run did beyond its checkpoint are done anew."""
        kept = [metrics for metrics in read_metrics(self.folder) if metrics["step"] <= after_step]
        self._lines = [_line(metrics) for metrics in kept]
        self._write_all()

    def append(self, metrics: dict[str, Any], flush: bool = False) -> None:
        """Add a line; `flush` brings an object store up to date too."""
        self._lines.append(_line(metrics))
        local = self.folder.local_path
        if local is not None:
            with (local / METRICS).open("a", encoding="utf-8") as file:
                file.write(self._lines.pop())
        elif flush or time.monotonic() - self._uploaded > _UPLOAD_SECONDS:
            self._write_all()

    def _write_all(self) -> None:
        self.folder.write_bytes(METRICS, "".join(self._lines).encode())
        self._uploaded = time.monotonic()


class MetricsReader:
    """The reading side: each step once, also when a restarted worker does it again."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self._stale = _read(folder)  # an earlier run's lines, of which the worker may yet cut some
        self._last_step = 0

    def new_lines(self) -> Iterator[dict[str, Any]]:
        """The metrics of the steps done since the last call."""
        text = _read(self.folder)
        if text == self._stale:
            return
        self._stale = text
        for metrics in _parse(text):
            if metrics["step"] > self._last_step:
                self._last_step = metrics["step"]
                yield metrics


def read_metrics(folder: Folder) -> list[dict[str, Any]]:
    """All steps done so far; none where there is no file."""
    return _parse(_read(folder))


def _read(folder: Folder) -> bytes:
    return folder.read_bytes(METRICS) if folder.exists(METRICS) else b""


def _parse(text: bytes) -> list[dict[str, Any]]:
    whole_lines = text[: text.rfind(b"\n") + 1]  # the last one may be half written
    return [json.loads(line) for line in whole_lines.splitlines()]


def _line(metrics: dict[str, Any]) -> str:
    return json.dumps(metrics) + "\n"
