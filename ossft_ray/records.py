"""Reading JSONL and Parquet files row by row, whatever their columns; a broken row is data, not an error."""

import glob
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from ossft_ray.errors import InputError

JSONL_SUFFIXES, PARQUET_SUFFIXES = (".jsonl", ".json"), (".parquet",)


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
        InputError: a path does not exist, a glob matches nothing, or a suffix is unknown.
    """
    found: list[str] = []
    for path in [paths] if isinstance(paths, str) else paths:
        matches = _expand(path)
        if not matches:
            raise InputError(f"{path}: no such file; give a JSONL or Parquet file, a glob, or a list of them")
        for match in matches:
            if not match.endswith(JSONL_SUFFIXES + PARQUET_SUFFIXES):
                raise InputError(f"{match}: unknown kind of file; give .jsonl or .parquet")
        found += matches
    return found


def read_records(path: str) -> Iterator[Record]:
    """Stream the rows of one JSONL or Parquet file; blank lines are skipped.

    Raises:
        InputError: the file cannot be opened, or is no Parquet file.
    """
    filesystem, inner = _filesystem(path)
    try:
        if path.endswith(PARQUET_SUFFIXES):
            yield from _read_parquet(filesystem, inner, path)
        else:
            yield from _read_jsonl(filesystem, inner, path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error


def _filesystem(path: str) -> tuple[fs.FileSystem, str]:
    if "://" not in path:
        return fs.LocalFileSystem(), os.path.expanduser(path)
    try:
        filesystem, inner = fs.FileSystem.from_uri(path)
    except (pa.ArrowInvalid, ValueError) as error:
        raise InputError(f"{path}: not a path or URI that can be read: {str(error).splitlines()[0]}") from error
    return filesystem, inner


def _expand(path: str) -> list[str]:
    filesystem, inner = _filesystem(path)
    if isinstance(filesystem, fs.LocalFileSystem):
        return sorted(glob.glob(inner)) if glob.has_magic(inner) else [path] * _is_file(filesystem, inner)
    return [path] * _is_file(filesystem, inner)


def _is_file(filesystem: fs.FileSystem, path: str) -> bool:
    return bool(filesystem.get_file_info(path).type == fs.FileType.File)


def _read_parquet(filesystem: fs.FileSystem, inner: str, path: str) -> Iterator[Record]:
    row = 0
    with filesystem.open_input_file(inner) as file:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=1024):
            for values in batch.to_pylist():
                row += 1
                yield Record(path, row, values)


def _read_jsonl(filesystem: fs.FileSystem, inner: str, path: str) -> Iterator[Record]:
    with filesystem.open_input_stream(inner) as stream:
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


def _lines(stream: pa.NativeFile, block_bytes: int = 1 << 20) -> Iterator[bytes]:
    rest = b""
    while block := stream.read(block_bytes):
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
    if rest:
        yield rest
