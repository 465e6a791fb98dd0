"""Files of JSON lines that survive a kill of their writer: attempts in progress, sessions, training metrics."""

import json
import os
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from ossft_ray.common.storage import Folder

_UPLOAD_SECONDS = 20.0  # between two writes of a growing object in a store


class LineLog:
    """A file that grows line by line.

    On a disk, each line is in the file once it is appended, and a kill can tear only the last one. An object store
    cannot append: the whole object is written again every 20 seconds, in a thread, because the caller may be an event
    loop. A kill loses the lines since the last write.
    """

    def __init__(self, folder: Folder, name: str, lines: Iterable[Any] | None = None) -> None:
        """Open a file for appending. `lines`, if given, first replace its content."""
        self._folder, self._name = folder, name
        self._content = bytearray(b"".join(map(_encode, lines or ())))
        self._written_at = time.monotonic()
        self._uploads = ThreadPoolExecutor(1, "line-log")  # starts its thread with the first upload
        self._upload: Future[None] | None = None
        if lines is not None:
            self._write()
        self._file: int | None = None
        if folder.local_path is not None:
            folder.local_path.mkdir(exist_ok=True)  # not its parents: a deleted run must not come back
            self._file = os.open(folder.local_path / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def append(self, value: Any, flush: bool = False) -> None:
        """Add one line; `flush` brings an object store up to date before it returns.

        Raises:
            OSError: the disk or the object store refused this line or an earlier one.
        """
        line = _encode(value)
        if self._file is not None:
            while line:
                line = line[os.write(self._file, line) :]
            return
        self._content += line
        if flush:
            self._write()
        elif time.monotonic() - self._written_at > _UPLOAD_SECONDS and (self._upload is None or self._upload.done()):
            self._start_upload()

    def close(self, keep: bool = True) -> None:
        """Write what an object store still lacks, unless the file is about to be deleted (`keep=False`)."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        elif keep and self._content:
            self._write()
        self._uploads.shutdown()  # an upload that is under way must not bring a deleted file back

    def _write(self) -> None:
        self._start_upload()
        assert self._upload is not None
        self._upload.result()

    def _start_upload(self) -> None:
        if self._upload is not None:
            self._upload.result()  # raises an earlier upload's error
        self._upload = self._uploads.submit(self._folder.write_bytes, self._name, bytes(self._content))
        self._written_at = time.monotonic()


def read_lines(folder: Folder, name: str) -> list[Any]:
    """The lines of a `LineLog`, without one that a kill has torn; empty where there is no file."""
    try:
        content = folder.read_bytes(name)
    except FileNotFoundError:
        return []
    values = []
    for line in content.splitlines():
        with suppress(ValueError):
            values.append(json.loads(line))
    return values


def _encode(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"
