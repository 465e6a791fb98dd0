"""Reading JSONL and Parquet files row by row, whatever their columns; a broken row is data, not an error.

Files may lie on disks or in object stores, each alone or by a glob (`**` for folders of any depth). JSONL may be
compressed (.gz, .zst). Rows are streamed: memory does not grow with a file.
"""

import fnmatch
import glob
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from ossft_ray.common.errors import InputError
from ossft_ray.common.uris import filesystem_at, split_options

JSONL_SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".jsonl.zst", ".json.zst")
PARQUET_SUFFIXES = (".parquet",)
_BLOCK_BYTES = 1 << 20
_BATCH_ROWS = 256


@dataclass(frozen=True)
class Record:
    """One row of an input file: its values, or for a broken row the raw text and what is wrong with it."""

    source: str
    row: int  # counted from 1, as in the file
    values: dict[str, Any]
    broken: str | None = None
    raw: str | None = None


def find_files(paths: str | list[str]) -> list[str]:
    """Paths, globs and object-store URIs as a list of files that exist, in sorted order within a glob.

    Raises:
        InputError: a path does not exist, a glob matches nothing, a store cannot be read, or a suffix is unknown.
    """
    found: list[str] = []
    for path in [paths] if isinstance(paths, str) else paths:
        matches = _expand(path)
        for match in matches:
            if not _bare(match).endswith(JSONL_SUFFIXES + PARQUET_SUFFIXES):
                raise InputError(f"{match}: unknown kind of file; give .jsonl or .parquet")
        found += matches
    return found


def read_records(path: str) -> Iterator[Record]:
    """Stream the rows of one JSONL or Parquet file; blank lines are skipped.

    Raises:
        InputError: the file cannot be opened, or is no Parquet file.
    """
    filesystem, inner = filesystem_at(path)
    try:
        if _bare(path).endswith(PARQUET_SUFFIXES):
            yield from _read_parquet(filesystem, inner, path)
        else:
            yield from _read_jsonl(filesystem, inner, path)
    except _faults(filesystem) as error:
        raise InputError(f"{path}: cannot be read: {_first_line(error)}") from error


def _expand(path: str) -> list[str]:
    """The files that a path means, as paths of the same kind."""
    is_glob = glob.has_magic(_bare(path)) and not os.path.isfile(os.path.expanduser(path))
    if is_glob:
        found = _glob_uri(path) if "://" in path else _glob_local(os.path.expanduser(path))
        if found:
            return found
    else:
        kind = _kind(*filesystem_at(path), path) if path else fs.FileType.NotFound
        if kind == fs.FileType.File:
            return [path]
        if kind == fs.FileType.Directory:
            raise InputError(f"{path}: is a folder; name its files, for instance {path.rstrip('/')}/*.parquet")
    raise InputError(f"{path}: no such file; give a JSONL or Parquet file, a glob, or a list of them")


def _glob_local(pattern: str) -> list[str]:
    return sorted(match for match in glob.glob(pattern, recursive=True) if os.path.isfile(match))


def _glob_uri(uri: str) -> list[str]:
    """A glob in an object store: all that lies under its last plain folder is listed, and what matches is kept."""
    bare, options = split_options(uri)
    scheme, _, rest = bare.partition("://")
    parts = rest.split("/")
    first = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    base = f"{scheme}://{'/'.join(parts[:first])}"
    if not any(parts[:first]) and scheme != "file":
        raise InputError(f"{uri}: a bucket cannot be a glob; name the bucket")
    filesystem, inner = filesystem_at(base + options)
    selector = fs.FileSelector(inner, allow_not_found=True, recursive=len(parts) > first + 1 or "**" in parts)
    # A URI's path is percent-encoded; what fsspec serves takes it as it is.
    encode = str if type(filesystem) is fs.PyFileSystem else quote
    try:
        infos = filesystem.get_file_info(selector)
    except _faults(filesystem) as error:
        raise InputError(f"{uri}: cannot be listed: {_first_line(error)}") from error
    names = (info.path.removeprefix(inner).lstrip("/") for info in infos if info.type == fs.FileType.File)
    folder = base.rstrip("/")
    return sorted(f"{folder}/{encode(name)}{options}" for name in names if _matches(name.split("/"), parts[first:]))


def _matches(names: list[str], parts: list[str]) -> bool:
    """As `glob` does: wildcards stay within a folder, but for `**`; hidden files must be named."""
    if not parts or not names:
        return names == [part for part in parts if part != "**"]
    hidden = names[0].startswith(".") and not parts[0].startswith(".")
    if parts[0] == "**":
        return _matches(names, parts[1:]) or (not hidden and _matches(names[1:], parts))
    return not hidden and fnmatch.fnmatchcase(names[0], parts[0]) and _matches(names[1:], parts[1:])


def _kind(filesystem: fs.FileSystem, inner: str, path: str) -> fs.FileType:
    try:
        return filesystem.get_file_info(inner).type
    except _faults(filesystem) as error:
        raise InputError(f"{path}: cannot be looked up: {_first_line(error)}") from error


def _faults(filesystem: fs.FileSystem) -> tuple[type[Exception], ...]:
    """What a filesystem may raise when it is read; each of fsspec's clients has errors of its own."""
    return (Exception,) if isinstance(filesystem, fs.PyFileSystem) else (OSError, pa.ArrowException)


def _bare(path: str) -> str:
    """A path without a URI's options (`?region=...`), in which a question mark is no wildcard."""
    return split_options(path)[0]


def _read_parquet(filesystem: fs.FileSystem, inner: str, path: str) -> Iterator[Record]:
    row = 0
    with filesystem.open_input_file(inner) as file:
        # Read through small buffers: a file may consist of one row group of gigabytes.
        parquet = pq.ParquetFile(file, buffer_size=_BLOCK_BYTES, pre_buffer=False)
        for batch in parquet.iter_batches(batch_size=_BATCH_ROWS):
            yield from _batch_records(batch, path, row)
            row += batch.num_rows


def _batch_records(batch: pa.RecordBatch, path: str, before: int) -> list[Record]:
    try:
        return [Record(path, row, values) for row, values in enumerate(batch.to_pylist(), start=before + 1)]
    except (ValueError, OverflowError) as error:  # bytes that are no UTF-8, a date beyond Python's
        if batch.num_rows > 1:
            rows = (batch.slice(index, 1) for index in range(batch.num_rows))
            return [record for index, row in enumerate(rows) for record in _batch_records(row, path, before + index)]
        return [Record(path, before + 1, {}, broken=_first_line(error), raw=str(batch))]


def _read_jsonl(filesystem: fs.FileSystem, inner: str, path: str) -> Iterator[Record]:
    with filesystem.open_input_stream(inner) as stream:  # decompresses by the name's ending
        for row, line in enumerate(_lines(stream), start=1):
            text = line.decode("utf-8", errors="replace").strip().removeprefix("\ufeff")
            if not text:
                continue
            try:
                values = json.loads(text)
            except (ValueError, RecursionError) as error:  # not JSON, an integer of thousands of digits, too deep
                yield Record(path, row, {}, broken=f"not valid JSON: {error}", raw=text)
                continue
            if isinstance(values, dict):
                yield Record(path, row, values)
            else:
                yield Record(path, row, {}, broken="not a JSON object", raw=text)


def _lines(stream: pa.NativeFile) -> Iterator[bytes]:
    rest = b""
    while block := stream.read(_BLOCK_BYTES):
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
    if rest:
        yield rest


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
