"""Reading a data set from the Hugging Face Hub: training data row by row, a benchmark whole and once.

It needs the `datasets` library, which only the extra `hub` installs.
"""

import logging
import os
import re
from collections.abc import Iterator
from functools import cache

from ossft_ray.common.errors import InputError
from ossft_ray.config import Data
from ossft_ray.data.records import JSONL_SUFFIXES, PARQUET_SUFFIXES, Record

_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_SHOWN_CHARACTERS = 300

# The paper's benchmarks, where the field takes them from: all their questions are in one split.
BENCHMARKS = {
    "math500": Data(path="HuggingFaceH4/MATH-500", split="test"),
    "minerva_math": Data(path="math-ai/minervamath", split="test"),
    "olympiadbench": Data(path="Hothan/OlympiadBench", subset="OE_TO_maths_en_COMP", split="train"),
    "aime24": Data(path="HuggingFaceH4/aime_2024", split="train"),
    "amc23": Data(path="math-ai/amc23", split="test"),
}


def is_hub_id(path: str) -> bool:
    """Whether a path names a data set on the Hub: it looks like `owner/name`, and nothing of that name is here."""
    is_file = path.endswith(JSONL_SUFFIXES + PARQUET_SUFFIXES)
    return bool(_ID.fullmatch(path)) and not is_file and not os.path.exists(path)


def hub_digest(name: str, data: Data) -> str:
    """What identifies the rows of a data set on the Hub in a fingerprint: no row is read for it."""
    return f"hub:{name} subset={data.subset or 'default'} split={data.split} revision={data.revision or 'main'}"


@cache
def read_hub_benchmark(name: str) -> tuple[Record, ...]:
    """The rows of one of `BENCHMARKS`; downloaded once, they can be had without a network too.

    Raises:
        InputError: as `read_hub_records`.
    """
    data = BENCHMARKS[name]
    try:
        return tuple(read_hub_records(str(data.path), data, streaming=False))
    except InputError as error:
        reason = str(error).removeprefix("[data] path: ")
        raise InputError(
            f"[evaluate] benchmark '{name}': {reason}; or set evaluate.data_dir to a folder that holds {name}.jsonl"
        ) from error


def read_hub_records(name: str, data: Data, streaming: bool = True) -> Iterator[Record]:
    """The rows of one split of a data set; streamed, none is kept on the disk.

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
        rows = load_dataset(name, data.subset, split=data.split, revision=data.revision, streaming=streaming)
        for row, values in enumerate(rows, start=1):
            yield Record(name, row, values)
    except Exception as error:  # of many kinds: datasets', the Hub client's, the network's
        reason = " ".join(str(error).split()) or type(error).__name__
        wanted = f"subset {data.subset or 'default'}, split {data.split}, revision {data.revision or 'main'}"
        where = f"after row {row}" if row else "there is no such file here, and from the Hub"
        raise InputError(
            f"[data] path: {name}: {where} it cannot be read ({wanted}): {reason[:_SHOWN_CHARACTERS]}"
        ) from error
