"""Rows of JSON and Parquet files with any columns; a broken row is data, not an error.

Files are on disks or in object stores. A path names one file, or several by a glob (`**` for folders of any depth).
JSON may be compressed (.gz, .zst). Rows are streamed, so memory does not grow with the file. A missing value is None,
even where pandas wrote NaN, and UTF-8 bytes become text.
"""

import fnmatch
import glob
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from ossft_ray.common.errors import InputError, brief
from ossft_ray.common.storage import Folder, digest_files
from ossft_ray.common.uris import filesystem_at, is_uri, split_options
from ossft_ray.data.json_rows import read_json_rows

JSONL_SUFFIXES = tuple(f".{name}{packed}" for name in ("jsonl", "json", "ndjson") for packed in ("", ".gz", ".zst"))
PARQUET_SUFFIXES = (".parquet",)
_BLOCK_BYTES = 1 << 20
_DIGESTED_EDGE = 1 << 29  # bytes at either end of a file
_BATCH_ROWS = 256


@dataclass(frozen=True)
class Record:
    """One row of an input file: its values, or for a broken row the raw text and the reason."""

    source: str
    row: int  # counted from 1, as in the file
    values: dict[str, Any]
    broken: str | None = None
    raw: str | None = None


def is_known_kind(path: str) -> bool:
    """Whether a name ends like that of a file that `read_records` can read."""
    return _bare(path).endswith(JSONL_SUFFIXES + PARQUET_SUFFIXES)


def present_values(values: dict[str, Any]) -> dict[str, Any]:
    """A row with None for NaN, and with text for bytes that are UTF-8."""
    return {name: _plain(value) if isinstance(value, float | bytes) else value for name, value in values.items()}


def _plain(value: float | bytes) -> Any:
    if isinstance(value, float):
        return None if value != value else value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def find_files(path: str) -> list[str]:
    """The files that a path, a glob or an object-store URI names, in sorted order.

    Raises:
        InputError: the path does not exist, the glob matches nothing, a store cannot be read, or a suffix is unknown.
    """
    is_glob = glob.has_magic(_bare(path)) and not os.path.isfile(os.path.expanduser(path))
    if not is_glob:
        found = [path] if _is_file(path) else []
    elif is_uri(path):
        found = _glob_uri(path)
    else:
        matches = glob.glob(os.path.expanduser(path), recursive=True)
        found = sorted(match for match in matches if os.path.isfile(match))
    if not found:
        raise InputError(f"{path}: no such file; give a JSONL or Parquet file, a glob, or a list of them")
    for file in found:
        if not is_known_kind(file):
            raise InputError(f"{file}: unknown kind of file; give .jsonl or .parquet")
    return found


def read_records(path: str) -> Iterator[Record]:
    """Stream the rows of one JSONL or Parquet file; blank lines are skipped.

    Raises:
        InputError: the file cannot be opened, or is not a Parquet file.
    """
    filesystem, inner = filesystem_at(path)
    with _input_errors(f"{path}: cannot be read", filesystem):
        if _bare(path).endswith(PARQUET_SUFFIXES):
            yield from _read_parquet(filesystem, inner, path)
        else:
            yield from _read_json(filesystem, inner, path)


def file_digest(path: str) -> str:
    """A digest of a file's name, size and content, for fingerprints; over one GiB, only the edges count.

    The content counts because a corrected answer is often as long as the wrong one.

    Raises:
        InputError: the file cannot be read.
    """
    folder, name = Folder.of_file(path)
    with _input_errors(f"{path}: cannot be read", folder.filesystem):
        return digest_files(folder, [name], _DIGESTED_EDGE)


def _is_file(path: str) -> bool:
    if not path:
        return False
    filesystem, inner = filesystem_at(path)
    with _input_errors(f"{path}: cannot be looked up", filesystem):
        kind = filesystem.get_file_info(inner).type
    if kind == fs.FileType.Directory:
        raise InputError(f"{path}: is a folder; name its files, for instance {path.rstrip('/')}/*.parquet")
    return bool(kind == fs.FileType.File)


def _glob_uri(uri: str) -> list[str]:
    """The files that match a URI's glob, from a listing of the last folder that has no wildcard."""
    bare, options = split_options(uri)
    scheme, _, rest = bare.partition("://")
    parts = rest.split("/")
    first = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    folder, wild = f"{scheme}://{'/'.join(parts[:first])}", parts[first:]
    if not any(parts[:first]) and scheme != "file":
        raise InputError(f"{uri}: a bucket cannot be a glob; name the bucket")
    filesystem, inner = filesystem_at(folder + options)
    selector = fs.FileSelector(inner, allow_not_found=True, recursive=len(wild) > 1 or "**" in wild)
    with _input_errors(f"{uri}: cannot be listed", filesystem):
        infos = filesystem.get_file_info(selector)
    names = (info.path.removeprefix(inner).lstrip("/") for info in infos if info.type == fs.FileType.File)
    # The path of a URI is percent-encoded, except in fsspec's filesystems.
    encode = str if isinstance(filesystem, fs.PyFileSystem) else quote
    matches = [encode(name) for name in names if _matches(name.split("/"), wild)]
    return sorted(f"{folder.rstrip('/')}/{name}{options}" for name in matches)


def _matches(names: list[str], parts: list[str]) -> bool:
    """Match as `glob` does: only `**` crosses folders, and a wildcard never matches a hidden name."""
    if not parts or not names:
        return names == [part for part in parts if part != "**"]
    hidden = names[0].startswith(".") and not parts[0].startswith(".")
    if parts[0] == "**":
        return _matches(names, parts[1:]) or (not hidden and _matches(names[1:], parts))
    return not hidden and fnmatch.fnmatchcase(names[0], parts[0]) and _matches(names[1:], parts[1:])


@contextmanager
def _input_errors(what: str, filesystem: fs.FileSystem) -> Iterator[None]:
    """Turn a filesystem's errors into an InputError; each client of fsspec has its own types of errors."""
    kinds = (Exception,) if isinstance(filesystem, fs.PyFileSystem) else (OSError, pa.ArrowException)
    try:
        yield
    except InputError:
        raise
    except kinds as error:
        raise InputError(f"{what}: {brief(error)}") from error


def _bare(path: str) -> str:
    """A path without a URI's options (`?region=...`), whose question mark is not a wildcard."""
    return split_options(path)[0]


def _read_parquet(filesystem: fs.FileSystem, inner: str, path: str) -> Iterator[Record]:
    row = 0
    with filesystem.open_input_file(inner) as file:
        # Small buffers, because a file may consist of one row group of gigabytes
        parquet = pq.ParquetFile(file, buffer_size=_BLOCK_BYTES, pre_buffer=False)
        for batch in parquet.iter_batches(batch_size=_BATCH_ROWS):
            yield from _batch_records(batch, path, row)
            row += batch.num_rows


def _batch_records(batch: pa.RecordBatch, path: str, before: int) -> list[Record]:
    try:
        rows = enumerate(batch.to_pylist(), start=before + 1)
        return [Record(path, row, present_values(values)) for row, values in rows]
    except (ValueError, OverflowError) as error:  # text that is not UTF-8, a date beyond Python's range
        if batch.num_rows > 1:
            slices = (batch.slice(index, 1) for index in range(batch.num_rows))
            return [record for index, row in enumerate(slices) for record in _batch_records(row, path, before + index)]
        return [Record(path, before + 1, {}, broken=brief(error), raw=str(batch))]


def _read_json(filesystem: fs.FileSystem, inner: str, path: str) -> Iterator[Record]:
    with filesystem.open_input_stream(inner) as stream:  # decompressed according to the file's suffix
        try:
            for number, values, broken, raw in read_json_rows(io.BufferedReader(stream, _BLOCK_BYTES)):
                yield Record(path, number, present_values(values), broken, raw)
        except ValueError as error:
            raise InputError(f"{path}: cannot be read: {error}") from error
