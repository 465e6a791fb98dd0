"""How does an export reach its folder? Part by part, in flat memory, and so that nothing half-written looks whole."""

import contextlib
import hashlib
import json
import re
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ossft_ray.common.schema import EXAMPLE_SCHEMA
from ossft_ray.common.storage import Folder
from ossft_ray.export.formats import Layout, Row
from ossft_ray.run_folder.reader import RunFolder

NEEDED = pa.schema(
    [
        EXAMPLE_SCHEMA.field(name)
        for name in ("problem_id", "prompt", "completion", "response_token_ids", "origin", "policy")
    ]
)
DATA_FILE = re.compile(r"train-[0-9a-f]{8}\.(parquet|jsonl)|\.train\.[0-9a-f]+\.tmp")  # the latter by a killed export
_DIGEST_CHARACTERS, _CHUNK_BYTES = 8, 1 << 20
_ROWS_AT_ONCE = 1024  # a row group of Parquet


@dataclass
class Contents:
    """What was written."""

    origins: Counter[str] = field(default_factory=Counter)
    policies: Counter[str] = field(default_factory=Counter)
    max_tokens: int = 0  # at most so many tokens in a prompt and its response

    @property
    def num_rows(self) -> int:
        return self.origins.total()

    def add(self, row: Row) -> None:
        self.origins[row["origin"]] += 1
        self.policies[row["policy"]] += 1
        # A byte is at most a token; a template adds some tokens to a message, and perhaps a sentence of its own.
        prompt = sum(len(message["content"].encode()) + 16 for message in row["prompt"])
        self.max_tokens = max(self.max_tokens, 64 + prompt + len(row["response_token_ids"]))


def read_rows(run: RunFolder, origins: Sequence[str], contents: Contents) -> Iterator[list[Row]]:
    """The run's examples in batches, and counted; only those of some origins, if any are named."""
    rows: list[Row] = []
    for table in run.tables(NEEDED):
        for row in table.to_pylist():
            if not origins or row["origin"] in origins:
                contents.add(row)
                rows.append(row)
        if len(rows) >= _ROWS_AT_ONCE:
            yield rows
            rows = []
    if rows:
        yield rows


def write_rows(folder: Folder, layout: Layout, batches: Iterator[list[Row]]) -> str:
    """Write all rows into one file, which is there as a whole or not at all; returns its name, `train-DIGEST`.

    The digest is the contents': `datasets` takes a folder for one that it has in its cache where the folder's name and
    the file names on its card are the same, so that equal names would train on the data of an earlier export.
    """
    temporary = f"{folder.path}/.train.{uuid.uuid4().hex}.tmp"
    folder.filesystem.create_dir(folder.path, recursive=True)
    try:
        with folder.filesystem.open_output_stream(temporary) as sink:
            _write(sink, layout, batches)
        name = f"train-{_digest(folder, temporary)}{layout.suffix}"
        folder.filesystem.move(temporary, f"{folder.path}/{name}")
    except BaseException:
        with contextlib.suppress(OSError):
            folder.filesystem.delete_file(temporary)
        raise
    return name


def _write(sink: IO[bytes], layout: Layout, batches: Iterator[list[Row]]) -> None:
    if layout.suffix == ".parquet":
        with pq.ParquetWriter(sink, layout.schema, compression="zstd") as writer:
            for batch in batches:
                writer.write_table(pa.Table.from_pylist([layout.convert(row) for row in batch], layout.schema))
        return
    for batch in batches:
        sink.write("".join(f"{_json(layout.convert(row))}\n" for row in batch).encode())


def _digest(folder: Folder, path: str) -> str:
    digest = hashlib.sha256()
    with folder.filesystem.open_input_stream(path) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()[:_DIGEST_CHARACTERS]


def _json(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False)
