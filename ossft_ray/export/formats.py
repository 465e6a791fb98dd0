"""How does each trainer want its examples? The columns and file of TRL, ShareGPT (LLaMA-Factory, Axolotl) and verl.

As read by TRL 1.16 (prompt-completion, conversational), LLaMA-Factory's sharegpt converter of August 2026
(`src/llamafactory/data/converter.py`), Axolotl's `chat_template` type of July 2026, and verl 0.10.0.dev, whose
`verl/utils/dataset/multiturn_sft_dataset.py` is its only SFT data set since the single-turn one with its prompt and
response columns was removed.
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
class Layout:
    """One trainer's form of the examples."""

    suffix: str  # of its one file, which is called train-DIGEST
    schema: pa.Schema
    convert: Callable[[Row], Row]  # an EXAMPLE row into one of `schema`
    trainers: str
    columns: dict[str, str]  # what the trainer reads, in words


def _trl(row: Row) -> Row:
    return {name: row[name] for name in ("prompt", "completion", "problem_id", "origin")}


def _verl(row: Row) -> Row:
    return {"messages": [*row["prompt"], *row["completion"]], "problem_id": row["problem_id"], "origin": row["origin"]}


def _sharegpt(row: Row) -> Row:
    turns = []
    for message in [*row["prompt"], *row["completion"]]:
        if message["role"] not in _SPEAKERS:
            raise InputError(
                f"problem {row['problem_id']}: ShareGPT has no speaker for the role '{message['role']}'; "
                f"it knows {', '.join(_SPEAKERS)}"
            )
        turns.append({"from": _SPEAKERS[message["role"]], "value": message["content"]})
    return {"conversations": turns, "problem_id": row["problem_id"], "origin": row["origin"]}


_ENDING = [EXAMPLE_SCHEMA.field("problem_id"), EXAMPLE_SCHEMA.field("origin")]

LAYOUTS = {
    "trl": Layout(
        ".parquet",
        pa.schema([EXAMPLE_SCHEMA.field("prompt"), EXAMPLE_SCHEMA.field("completion"), *_ENDING]),
        _trl,
        "TRL",
        {
            "prompt": "what the policy was asked: messages with `role` and `content`",
            "completion": "the kept response: one message of the assistant, the only one with a loss",
        },
    ),
    "sharegpt": Layout(
        ".jsonl",
        pa.schema([("conversations", _TURNS), *_ENDING]),
        _sharegpt,
        "LLaMA-Factory or Axolotl",
        {"conversations": "turns with `from` (system, human, gpt) and `value`; the response is the last"},
    ),
    "verl": Layout(
        ".parquet",
        pa.schema([("messages", MESSAGES), *_ENDING]),
        _verl,
        "verl",
        {"messages": "messages with `role` and `content`; the response is the last, the only one with a loss"},
    ),
}
COMMON_COLUMNS = {
    "problem_id": "the problem, as in the run",
    "origin": "whose solution it is: `self`, `guided` or `expert`",
}
