"""The formats of an export: the columns and the file that TRL, ShareGPT's readers and verl expect.

They are read by TRL 1.16 (prompt-completion, conversational), LLaMA-Factory's sharegpt converter of August 2026
(`src/llamafactory/data/converter.py`), Axolotl's `chat_template` type of July 2026, and verl 0.10.0.dev
(`verl/utils/dataset/multiturn_sft_dataset.py`, its only SFT data set).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ossft_ray.common.errors import InputError
from ossft_ray.common.schema import EXAMPLE_SCHEMA, MESSAGES

Row = dict[str, Any]
_TURNS = pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))
_SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt"}


@dataclass(frozen=True)
class ExportFormat:
    """One format of the examples."""

    suffix: str  # of the data file
    schema: pa.Schema
    convert: Callable[[Row], Row]  # from an EXAMPLE row to a row of `schema`
    trainers: dict[str, str]  # name and documentation's address of each that reads it
    columns: dict[str, str]  # name and explanation of each that the trainers read


def _to_trl(row: Row) -> Row:
    return {name: row[name] for name in ("prompt", "completion", "problem_id", "origin")}


def _to_verl(row: Row) -> Row:
    return {"messages": [*row["prompt"], *row["completion"]], "problem_id": row["problem_id"], "origin": row["origin"]}


def _to_sharegpt(row: Row) -> Row:
    turns = []
    for message in [*row["prompt"], *row["completion"]]:
        if message["role"] not in _SPEAKERS:
            raise InputError(
                f"problem {row['problem_id']}: ShareGPT has no speaker for the role '{message['role']}'; "
                f"it knows {', '.join(_SPEAKERS)}"
            )
        turns.append({"from": _SPEAKERS[message["role"]], "value": message["content"]})
    return {"conversations": turns, "problem_id": row["problem_id"], "origin": row["origin"]}


_LAST_FIELDS = [EXAMPLE_SCHEMA.field("problem_id"), EXAMPLE_SCHEMA.field("origin")]
COMMON_COLUMNS = {
    "problem_id": "the problem, as in the run",
    "origin": "the author of the response: `self`, `guided`, `external` or `expert`",
}
FORMATS = {
    "trl": ExportFormat(
        ".parquet",
        pa.schema([EXAMPLE_SCHEMA.field("prompt"), EXAMPLE_SCHEMA.field("completion"), *_LAST_FIELDS]),
        _to_trl,
        {"TRL": "https://huggingface.co/docs/trl/sft_trainer"},
        {
            "prompt": "the question to the policy: messages with `role` and `content`",
            "completion": "the kept response: one message of the assistant, the only one with a loss",
        },
    ),
    "sharegpt": ExportFormat(
        ".jsonl",
        pa.schema([("conversations", _TURNS), *_LAST_FIELDS]),
        _to_sharegpt,
        {"LLaMA-Factory": "https://llamafactory.readthedocs.io", "Axolotl": "https://docs.axolotl.ai"},
        {"conversations": "turns with `from` (system, human, gpt) and `value`; the response is the last"},
    ),
    "verl": ExportFormat(
        ".parquet",
        pa.schema([("messages", MESSAGES), *_LAST_FIELDS]),
        _to_verl,
        {"verl": "https://verl.readthedocs.io"},
        {"messages": "messages with `role` and `content`; the response is the last, the only one with a loss"},
    ),
}
