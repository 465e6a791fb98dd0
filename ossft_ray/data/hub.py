"""Reading a data set from the Hugging Face Hub, row by row and without downloading it whole.

It needs the `datasets` library, which only the extra `hub` installs.
"""

import logging
import os
import re
from collections.abc import Iterator

from ossft_ray.config import Data
from ossft_ray.data.records import JSONL_SUFFIXES, PARQUET_SUFFIXES, Record
from ossft_ray.errors import InputError

_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_SHOWN_CHARACTERS = 300


def is_hub_id(path: str) -> bool:
    """Whether a path names a data set on the Hub: it looks like `owner/name`, and nothing of that name is here."""
    is_file = path.endswith(JSONL_SUFFIXES + PARQUET_SUFFIXES)
    return bool(_ID.fullmatch(path)) and not is_file and not os.path.exists(path)


def hub_digest(name: str, data: Data) -> str:
    """What identifies the rows of a data set on the Hub in a fingerprint: no row is read for it."""
    return f"hub:{name} subset={data.subset or 'default'} split={data.split} revision={data.revision or 'main'}"


def read_hub_records(name: str, data: Data) -> Iterator[Record]:
    """Stream the rows of one split of a data set.

    Raises:
        InputError: `datasets` is not installed, or the data set, its subset or its split cannot be had; says why.
    """
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise InputError(
            f"[data] path: {name}: there is no such file here, and reading it from the Hub needs the 'datasets' "
            "library: pip install 'ossft-ray[hub]'"
        ) from error
    logging.getLogger("datasets").setLevel(logging.CRITICAL)  # what it reports is raised too, and said below
    row = 0
    try:
        rows = load_dataset(name, data.subset, split=data.split, revision=data.revision, streaming=True)
        for row, values in enumerate(rows, start=1):
            yield Record(name, row, values)
    except Exception as error:  # of many kinds: datasets', the Hub client's, the network's
        reason = " ".join(str(error).split()) or type(error).__name__
        wanted = f"subset {data.subset or 'default'}, split {data.split}, revision {data.revision or 'main'}"
        where = f"after row {row}" if row else "there is no such file here, and from the Hub"
        raise InputError(
            f"[data] path: {name}: {where} it cannot be read ({wanted}): {reason[:_SHOWN_CHARACTERS]}"
        ) from error
