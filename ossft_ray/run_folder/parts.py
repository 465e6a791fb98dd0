"""A part of examples as files: its rows, the problems it dropped, and what it cost to make."""

import json
from typing import Any

import pyarrow as pa

from ossft_ray.common.errors import JobError
from ossft_ray.common.schema import DROPPED_SCHEMA, EXAMPLE_SCHEMA, to_table
from ossft_ray.common.storage import Folder
from ossft_ray.run_folder.names import COUNTS, INPUTS

Row = dict[str, Any]


def write_part(folder: Folder, part: str, examples: list[Row], dropped: list[Row], counts: dict[str, Any]) -> None:
    """Write a part, whole or not at all; its counts go into the Parquet file's metadata.

    Raises:
        JobError: the stage's folder is gone: it is not made again behind the user's back.
    """
    if not folder.exists(INPUTS):
        raise JobError(f"{folder.path} has vanished while it was written to; what it held is lost")
    if dropped:
        folder.write_table(_dropped_name(part), to_table(dropped, DROPPED_SCHEMA))
    write_counted(folder, part, to_table(examples, EXAMPLE_SCHEMA), counts)


def write_counted(folder: Folder, part: str, table: pa.Table, counts: dict[str, Any]) -> None:
    """Write a table with its counts."""
    folder.write_table(part, table.replace_schema_metadata({COUNTS: json.dumps(counts)}))


def read_dropped(folder: Folder, part: str) -> list[Row]:
    """The problems that a part dropped, with the attempts at them."""
    name = _dropped_name(part)
    return folder.read_table(name).to_pylist() if folder.exists(name) else []


def move_part(folder: Folder, part: str, to: Folder) -> None:
    """Move a part to another folder; what it dropped first, so that a kill between the two loses nothing."""
    if folder.exists(_dropped_name(part)):
        folder.move(_dropped_name(part), to)
    folder.move(part, to)


def delete_part(folder: Folder, part: str) -> None:
    for name in (_dropped_name(part), part):
        if folder.exists(name):
            folder.delete_file(name)


def _dropped_name(part: str) -> str:
    return part.replace("part-", "dropped-", 1)
