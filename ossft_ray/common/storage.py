"""Folders with atomic writes, on local disks and in object stores alike, and a writer of rows in parts."""

import fnmatch
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from ossft_ray.common.schema import check_table
from ossft_ray.common.uris import filesystem_at

_EDGE_BYTES = 1 << 20


@dataclass(frozen=True)
class Folder:
    """A folder on a filesystem. Writes are atomic: a reader sees a whole file or none."""

    filesystem: fs.FileSystem
    path: str

    @classmethod
    def at(cls, uri: str) -> "Folder":
        """A local path or an object-store URI such as `s3://bucket/run`.

        Raises:
            InputError: the URI's scheme or an option is unknown, or it carries a secret.
        """
        return cls(*filesystem_at(uri))

    @classmethod
    def of_file(cls, path: str) -> tuple["Folder", str]:
        """The folder of a file, and the file's name in it."""
        filesystem, inner = filesystem_at(path)
        folder, _, name = inner.rpartition("/")
        return cls(filesystem, folder or "/"), name

    def __truediv__(self, name: str) -> "Folder":
        return Folder(self.filesystem, f"{self.path}/{name}")

    @property
    def local_path(self) -> Path | None:
        """The path on this machine's disk; None in an object store."""
        return Path(self.path) if isinstance(self.filesystem, fs.LocalFileSystem) else None

    def names(self, pattern: str = "*") -> list[str]:
        """Sorted names of the matching files directly in this folder; empty if the folder does not exist."""
        infos = self.filesystem.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
        files = [info.base_name for info in infos if info.type == fs.FileType.File]
        return sorted(name for name in files if fnmatch.fnmatch(name, pattern))

    def exists(self, name: str = "") -> bool:
        path = f"{self.path}/{name}" if name else self.path
        return bool(self.filesystem.get_file_info(path).type != fs.FileType.NotFound)

    def write_bytes(self, name: str, content: bytes | memoryview) -> None:
        """Write one file atomically: under a temporary name, then renamed (an object store's put is atomic anyway).

        A store's stream gets the whole content at once, because closing it, even after an exception, would turn partial
        content into an object.
        """
        self.filesystem.create_dir(self.path, recursive=True)
        if self.local_path is None:
            with self.filesystem.open_output_stream(f"{self.path}/{name}") as stream:
                stream.write(content)
            return
        temporary = self.local_path / f".{name}.{uuid.uuid4().hex}.tmp"
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.local_path / name)
        finally:
            temporary.unlink(missing_ok=True)

    def read_bytes(self, name: str) -> bytes:
        with self.filesystem.open_input_stream(f"{self.path}/{name}") as stream:
            return bytes(stream.read())

    def write_json(self, name: str, value: Any) -> None:
        self.write_bytes(name, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())

    def read_json(self, name: str) -> Any:
        return json.loads(self.read_bytes(name))

    def write_table(self, name: str, table: pa.Table) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self.write_bytes(name, memoryview(sink.getvalue()))

    def read_table(self, name: str) -> pa.Table:
        with self.filesystem.open_input_file(f"{self.path}/{name}") as file:
            return pq.ParquetFile(file).read()

    def read_metadata(self, name: str) -> dict[bytes, bytes]:
        """The key-value metadata of a Parquet file."""
        with self.filesystem.open_input_file(f"{self.path}/{name}") as file:
            return dict(pq.ParquetFile(file).schema_arrow.metadata or {})

    def read_tables(self, pattern: str, schema: pa.Schema) -> pa.Table:
        """All matching parts as one table of this schema, in the order of their names; empty if no part matches.

        Raises:
            InputError: a part does not have the schema's columns.
        """
        tables = [check_table(self.read_table(name), schema, f"{self.path}/{name}") for name in self.names(pattern)]
        return pa.concat_tables(tables) if tables else schema.empty_table()

    def move(self, name: str, to: "Folder") -> None:
        """Move one file to another folder of the same filesystem; a file of the same name there is replaced."""
        self.filesystem.create_dir(to.path, recursive=True)
        self.filesystem.move(f"{self.path}/{name}", f"{to.path}/{name}")

    def delete_file(self, name: str) -> None:
        self.filesystem.delete_file(f"{self.path}/{name}")

    def delete(self) -> None:
        """Remove this folder and all its contents, if it exists."""
        if self.exists():
            self.filesystem.delete_dir(self.path)


class PartWriter:
    """Writes Parquet files numbered from `number`, with `capacity(number)` rows each; `flush` writes the rest."""

    def __init__(
        self, folder: Folder, prefix: str, schema: pa.Schema, capacity: Callable[[int], int], number: int = 0
    ) -> None:
        self.folder, self.prefix, self.number = folder, prefix, number
        self.num_rows = 0
        self._schema, self._capacity = schema, capacity
        self._waiting: list[dict[str, Any]] = []

    def write(self, row: dict[str, Any]) -> None:
        self.num_rows += 1
        self._waiting.append(row)
        if len(self._waiting) == self._capacity(self.number):
            self.flush()

    def flush(self) -> None:
        if self._waiting:
            name = f"{self.prefix}-{self.number:05d}.parquet"
            self.folder.write_table(name, pa.Table.from_pylist(self._waiting, schema=self._schema))
            self.number, self._waiting = self.number + 1, []


def digest_files(folder: Folder, names: Iterable[str], edge_bytes: int = _EDGE_BYTES) -> str:
    """A digest of the files' names and sizes, and of the first and last `edge_bytes` of each.

    One MiB, the default, is cheap and enough to distinguish models.
    """
    digest = hashlib.sha256()
    for name in sorted(names):
        with folder.filesystem.open_input_file(f"{folder.path}/{name}") as file:
            size = file.size()
            digest.update(f"{name} {size} ".encode())
            for start in (0, max(0, size - edge_bytes)):
                file.seek(start)
                for read in range(0, edge_bytes, _EDGE_BYTES):
                    if not (chunk := file.read(min(_EDGE_BYTES, edge_bytes - read))):
                        break
                    digest.update(chunk)
    return digest.hexdigest()
