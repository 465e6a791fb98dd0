"""Pyarrow schemas of all rows: each column is named here once. Rows are cast when written and checked when read."""

from typing import Any

import pyarrow as pa

from ossft_ray.common.errors import InputError, brief

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))

PROBLEM_SCHEMA = pa.schema(
    [
        ("problem_id", pa.string()),
        ("question", pa.string()),
        ("answer", pa.string()),
        ("expert_solution", pa.string()),  # null in benchmarks
        ("verifier", pa.string()),  # the kind of verification of this row; empty for the run's own
        ("conversation", pa.string()),  # JSON of the messages around the question; empty if there are none
    ]
)

REJECTED_SCHEMA = pa.schema(
    [
        ("problem_id", pa.string()),  # null where the row has none
        ("source", pa.string()),  # the input file
        ("row", pa.int64()),  # counted from 1, as in the file
        ("reason", pa.string()),
        ("content", pa.string()),  # the row as JSON, or the broken line
    ]
)

ATTEMPT = pa.struct(
    [
        ("stage", pa.string()),  # self | guided | external
        ("index", pa.int32()),
        ("correct", pa.bool_()),
        ("reason", pa.string()),
        ("finish_reason", pa.string()),
        ("num_tokens", pa.int32()),
        ("response", pa.string()),  # null unless keep_attempts
    ]
)

# The fields that statistics need from an example or a dropped problem: no texts
_ATTEMPT_FIGURES = pa.struct([ATTEMPT.field(name) for name in ("stage", "index", "correct", "num_tokens")])
ATTEMPT_FIGURES_SCHEMA = pa.schema([("problem_id", pa.string()), ("attempts", pa.list_(_ATTEMPT_FIGURES))])

EXAMPLE_SCHEMA = pa.schema(
    [
        ("problem_id", pa.string()),
        ("question", pa.string()),
        ("answer", pa.string()),
        ("expert_solution", pa.string()),
        ("prompt", MESSAGES),
        ("completion", MESSAGES),
        ("response", pa.string()),
        ("response_token_ids", pa.list_(pa.int32())),  # as sampled, or tokenized by the policy; end-of-turn included
        ("origin", pa.string()),  # self | guided | external | expert
        ("num_attempts", pa.int32()),
        ("num_correct", pa.int32()),
        ("attempts", pa.list_(ATTEMPT)),
        ("policy", pa.string()),
        ("kept_index", pa.int32()),  # of the kept attempt within its stage; null for expert
        ("verifier", pa.string()),  # as in PROBLEM
        ("attempt_answers", pa.list_(pa.string())),  # the answer read from each of `attempts`, or null
        ("behavior_logprobs", pa.list_(pa.float32())),  # of response_token_ids when sampled; null for expert
        ("attempt_token_ids", pa.list_(pa.list_(pa.int32()))),  # as sampled, of each of `attempts`; if keep_attempts
        ("conversation", pa.string()),  # as in PROBLEM
    ]
)
# Columns that older files lack; they are read as nulls.
_OPTIONAL = (
    "kept_index", "verifier", "attempt_answers", "behavior_logprobs", "vote", "reference_ranks",
    "reference_masses", "plain_logprobs", "attempt_token_ids", "conversation",
)  # fmt: skip

# An unsolved problem of a run with [rewrite] fallback = "drop": its attempts, and no example.
DROPPED_SCHEMA = pa.schema(
    [
        EXAMPLE_SCHEMA.field(name)
        for name in (
            *(*PROBLEM_SCHEMA.names, "num_attempts", "num_correct", "attempts", "policy"),
            *("attempt_answers", "attempt_token_ids"),
        )
    ]
)

SCORE_SCHEMA = pa.schema(
    [
        ("problem_id", pa.string()),
        ("origin", pa.string()),  # self | guided | external | expert
        ("source", pa.string()),  # kept | expert_original
        ("token_ids", pa.list_(pa.int32())),  # of the response
        ("reference_logprobs", pa.list_(pa.float32())),  # log p of each under the policy before training
        ("reference_ranks", pa.list_(pa.int32())),  # of each in that policy's distribution; the likeliest has rank 1
        ("reference_masses", pa.list_(pa.float32())),  # of each: its own p plus that of all less likely tokens
    ]
)
# With [score] plain_text: log p of the response's tokens after the bare question; the tokenization may differ.
PLAIN_SCORE_SCHEMA = SCORE_SCHEMA.append(pa.field("plain_logprobs", pa.list_(pa.float32())))

# A sampled response of the policy, right or wrong, under the plain prompt and under the teacher's; see score.teacher.
ATTEMPT_SCORE_SCHEMA = pa.schema(
    [
        ("problem_id", pa.string()),
        ("index", pa.int32()),  # of the attempt within the self stage
        ("correct", pa.bool_()),
        ("prompt_token_ids", pa.list_(pa.int32())),  # the plain prompt
        ("token_ids", pa.list_(pa.int32())),  # of the response, as sampled
        ("reference_logprobs", pa.list_(pa.float32())),  # log p of each under the policy before training
        ("teacher_logprobs", pa.list_(pa.float32())),  # log q of each under the teacher
    ]
)

SAMPLE_SCHEMA = pa.schema(
    [
        ("problem_id", pa.string()),
        ("question", pa.string()),
        ("answer", pa.string()),
        ("index", pa.int32()),
        ("response", pa.string()),
        ("correct", pa.bool_()),
        ("reason", pa.string()),
        ("extracted", pa.string()),
        ("finish_reason", pa.string()),
        ("num_tokens", pa.int32()),
        ("vote", pa.int32()),  # index of the first sample with an equal answer; null without an answer
    ]
)


def to_table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table of exactly this schema; unknown keys are an error, and missing ones become null."""
    unknown = {key for row in rows for key in row} - set(schema.names)
    if unknown:
        raise ValueError(f"columns {sorted(unknown)} are not in the schema")
    return pa.Table.from_pylist(rows, schema=schema)


def check_table(table: pa.Table, schema: pa.Schema, source: str) -> pa.Table:
    """The schema's columns of `table`, cast; the table may have more columns, and may lack those of `_OPTIONAL`.

    Raises:
        InputError: a column is missing or cannot be cast; the message names it and `source`.
    """
    missing = [name for name in schema.names if name not in table.column_names]
    while missing and missing[0] in _OPTIONAL:
        field = schema.field(missing.pop(0))
        table = table.append_column(field, pa.nulls(len(table), field.type))
    if missing:
        raise InputError(f"{source}: column '{missing[0]}' is missing; found {', '.join(table.column_names)}")
    try:
        return table.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise InputError(f"{source}: columns do not have the expected types: {brief(error)}") from error
