"""The data file of an export, written part by part in flat memory, so that an incomplete file never looks complete."""

import contextlib
import hashlib
import json
import re
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from ossft_ray.common.schema import EXAMPLE_SCHEMA
from ossft_ray.common.storage import Folder
from ossft_ray.export.formats import ExportFormat, Row
from ossft_ray.run_folder.reader import RunFolder, columns

_COLUMNS = columns(EXAMPLE_SCHEMA, "problem_id", "prompt", "completion", "origin", "policy")
DATA_FILE = re.compile(r"train-[0-9a-f]{8}\.(parquet|jsonl)|\.train\.[0-9a-f]+\.tmp")  # .tmp: from a killed export
_DIGEST_CHARACTERS, _BUFFER_BYTES = 8, 1 << 20
_MIN_BATCH_ROWS = 1024  # a batch is a row group of Parquet


def read_rows(run: RunFolder, origins: Sequence[str], counts: Counter[str]) -> Iterator[list[Row]]:
    """Stream the run's examples in batches; `origins` selects some, empty selects all.

    As rows are read, `counts` counts them by origin.
    """
    rows: list[Row] = []
    for table in run.tables(_COLUMNS):
        rows += [row for row in table.to_pylist() if not origins or row["origin"] in origins]
        if len(rows) >= _MIN_BATCH_ROWS:
            counts.update(row["origin"] for row in rows)
            yield rows
            rows = []
    if rows:
        counts.update(row["origin"] for row in rows)
        yield rows


def write_rows(folder: Folder, format: ExportFormat, batches: Iterator[list[Row]]) -> str:
    """Write all rows into one file, atomically; returns its name, `train-` and a digest of the contents.

    `datasets` caches a folder by its name and the file names on its card, so a constant file name would load the data
    of an earlier export.
    """
    temporary = f"{folder.path}/.train.{uuid.uuid4().hex}.tmp"
    folder.filesystem.create_dir(folder.path, recursive=True)
    try:
        with folder.filesystem.open_output_stream(temporary) as sink:
            _write(sink, format, batches)
        with folder.filesystem.open_input_stream(temporary, buffer_size=_BUFFER_BYTES) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:_DIGEST_CHARACTERS]
        name = f"train-{digest}{format.suffix}"
        folder.filesystem.move(temporary, f"{folder.path}/{name}")
    except BaseException:
        with contextlib.suppress(OSError):
            folder.filesystem.delete_file(temporary)
        raise
    return name


def _write(sink: IO[bytes], format: ExportFormat, batches: Iterator[list[Row]]) -> None:
    converted = ([format.convert(row) for row in batch] for batch in batches)
    if format.suffix == ".parquet":
        with pq.ParquetWriter(sink, format.schema, compression="zstd") as writer:
            for rows in converted:
                writer.write_table(pa.Table.from_pylist(rows, format.schema))
    else:
        for rows in converted:
            sink.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
