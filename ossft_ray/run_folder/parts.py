"""Parts of a stage's rows as files, with the counts that each was written with."""

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pyarrow as pa

from ossft_ray.common.errors import InputError, JobError
from ossft_ray.common.schema import DROPPED_SCHEMA, EXAMPLE_SCHEMA, to_table
from ossft_ray.common.storage import Folder
from ossft_ray.run_folder.names import COUNTS, INPUTS, PARTS

Row = dict[str, Any]
_NUM_READERS = 32  # in an object store, each footer takes a few round trips


def write_part(folder: Folder, part: str, examples: list[Row], dropped: list[Row], counts: dict[str, Any]) -> None:
    """Write a part of examples and the problems that it dropped, whole or not at all; raises as `write_counted`."""
    _require(folder)
    if dropped:
        folder.write_table(_dropped_name(part), to_table(dropped, DROPPED_SCHEMA))
    write_counted(folder, part, to_table(examples, EXAMPLE_SCHEMA), counts)


def write_counted(folder: Folder, part: str, table: pa.Table, counts: dict[str, Any]) -> None:
    """Write a table with its counts in the Parquet file's metadata.

    Raises:
        JobError: the stage's folder is gone. It is not created again behind the user's back.
    """
    _require(folder)
    folder.write_table(part, table.replace_schema_metadata({COUNTS: json.dumps(counts)}))


def read_counts(folder: Folder, part: str) -> dict[str, Any]:
    """The counts that a part was written with.

    Raises:
        InputError: another program wrote it.
    """
    metadata = folder.read_metadata(part)
    if COUNTS not in metadata:
        raise InputError(
            f"{folder.path}/{part}: its metadata lacks {COUNTS.decode()}, so ossft did not write it; "
            "move it out of the run's folder"
        )
    return dict(json.loads(metadata[COUNTS]))


def counts_of_parts(folder: Folder) -> list[dict[str, Any]]:
    """The counts of each part so far, in the order of their names."""
    with ThreadPoolExecutor(_NUM_READERS) as readers:
        return list(readers.map(partial(read_counts, folder), folder.names(PARTS)))


def read_dropped(folder: Folder, part: str) -> list[Row]:
    """The problems that a part dropped, with the attempts at them."""
    name = _dropped_name(part)
    return folder.read_table(name).to_pylist() if folder.exists(name) else []


def move_part(folder: Folder, part: str, to: Folder) -> None:
    """Move a part to another folder; its dropped problems first, so that a kill between the two loses nothing."""
    if folder.exists(_dropped_name(part)):
        folder.move(_dropped_name(part), to)
    folder.move(part, to)


def delete_part(folder: Folder, part: str) -> None:
    """Delete a part and its dropped problems."""
    for name in (_dropped_name(part), part):
        if folder.exists(name):
            folder.delete_file(name)


def _require(folder: Folder) -> None:
    if not folder.exists(INPUTS):
        raise JobError(f"{folder.path} was deleted while this stage wrote to it; give the command again to start over")


def _dropped_name(part: str) -> str:
    return part.replace("part-", "dropped-", 1)
