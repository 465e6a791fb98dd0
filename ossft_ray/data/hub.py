"""The rows of data sets on the Hugging Face Hub, read by the `datasets` library of the extra `hub`."""

import logging
import os
import re
from collections.abc import Iterator

from ossft_ray.common.errors import InputError
from ossft_ray.config import Data
from ossft_ray.data.records import Record, is_known_kind, present_values

_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_MAX_SHOWN_CHARACTERS = 300


def is_hub_id(path: str) -> bool:
    """Whether a path names a data set on the Hub: it looks like `owner/name`, and no such path exists here."""
    return bool(_ID.fullmatch(path)) and not is_known_kind(path) and not os.path.exists(path)


def hub_digest(name: str, data: Data) -> str:
    """A digest of a data set on the Hub for fingerprints; no row is read for it."""
    return f"hub:{name} subset={data.subset or 'default'} split={data.split} revision={data.revision or 'main'}"


def read_hub_records(name: str, data: Data, streaming: bool = True) -> Iterator[Record]:
    """The rows of one split of a data set; streamed rows are not kept on the disk.

    Raises:
        InputError: `datasets` is not installed, or the data set, its subset or its split cannot be read; says why.
    """
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise InputError(
            f"[data] path: {name}: there is no such file here, and reading it from the Hub needs the 'datasets' "
            "library: pip install 'ossft-ray[hub]'"
        ) from error
    logging.getLogger("datasets").setLevel(logging.CRITICAL)  # it also raises what it logs, and we report that below
    row = 0
    try:
        rows = load_dataset(name, data.subset, split=data.split, revision=data.revision, streaming=streaming)
        for row, values in enumerate(rows, start=1):
            yield Record(name, row, present_values(values))
    except Exception as error:  # of many kinds: from datasets, the Hub's client, the network
        reason = " ".join(str(error).split()) or type(error).__name__
        wanted = f"subset {data.subset or 'default'}, split {data.split}, revision {data.revision or 'main'}"
        where = f"after row {row} it" if row else "there is no such file here, and the Hub's data set"
        raise InputError(
            f"[data] path: {name}: {where} cannot be read ({wanted}): {reason[:_MAX_SHOWN_CHARACTERS]}"
        ) from error
