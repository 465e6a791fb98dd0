"""Rows are written with exactly their schema, and checked against it when read."""

from typing import Any

import pyarrow as pa
import pytest

from ossft_ray.common.errors import InputError
from ossft_ray.common.schema import (
    EXAMPLE_SCHEMA,
    PROBLEM_SCHEMA,
    REJECTED_SCHEMA,
    SAMPLE_SCHEMA,
    SCORE_SCHEMA,
    check_table,
    to_table,
)

# The columns and types of the public contract
CONTRACT = {
    "problem_id": "string",
    "question": "string",
    "answer": "string",
    "expert_solution": "string",
    "prompt": "list<item: struct<role: string, content: string>>",
    "completion": "list<item: struct<role: string, content: string>>",
    "response": "string",
    "response_token_ids": "list<item: int32>",
    "origin": "string",
    "num_attempts": "int32",
    "num_correct": "int32",
    "attempts": "list<item: struct<stage: string, index: int32, correct: bool, reason: string, finish_reason: string, "
    "num_tokens: int32, response: string>>",
    "policy": "string",
}
ROW = {"problem_id": "p", "question": "q", "answer": "1", "expert_solution": "s", "verifier": "", "conversation": ""}
SCORES = {
    "problem_id": "string",
    "origin": "string",
    "source": "string",
    "token_ids": "list<item: int32>",
    "reference_logprobs": "list<item: float>",
    "reference_ranks": "list<item: int32>",
    "reference_masses": "list<item: float>",
}


@pytest.mark.parametrize("name, kind", CONTRACT.items(), ids=CONTRACT)
def test_example_columns_match_the_contract(name: str, kind: str) -> None:
    assert str(EXAMPLE_SCHEMA.field(name).type) == kind


def test_score_columns_match_the_contract() -> None:
    assert {field.name: str(field.type) for field in SCORE_SCHEMA} == SCORES


def test_rejected_rows_have_a_place_and_a_reason() -> None:
    assert {"source", "row", "reason"} <= set(REJECTED_SCHEMA.names)


@pytest.mark.parametrize("schema", [PROBLEM_SCHEMA, REJECTED_SCHEMA, EXAMPLE_SCHEMA, SAMPLE_SCHEMA, SCORE_SCHEMA])
def test_an_empty_table_has_the_schema(schema: pa.Schema) -> None:
    assert to_table([], schema).schema == schema


def test_a_file_may_lack_the_optional_columns() -> None:
    table = to_table([ROW | {"verifier": None}], PROBLEM_SCHEMA)
    assert check_table(table.drop_columns(["verifier"]), PROBLEM_SCHEMA, "part.parquet") == table


def test_a_missing_value_is_null_and_an_unknown_column_an_error() -> None:
    table = to_table([{"problem_id": "p"}], PROBLEM_SCHEMA)
    assert table.schema == PROBLEM_SCHEMA
    assert table.to_pylist() == [dict.fromkeys(PROBLEM_SCHEMA.names) | {"problem_id": "p"}]
    with pytest.raises(ValueError, match="anser"):
        to_table([ROW, ROW | {"anser": "1"}], PROBLEM_SCHEMA)


@pytest.mark.parametrize(
    "column, values",
    [
        ("problem_id", pa.array(["p"], pa.large_string())),
        ("answer", pa.array(["1"]).dictionary_encode()),
        ("expert_solution", pa.array([None])),
    ],
)
def test_columns_are_cast(column: str, values: Any) -> None:
    table = to_table([ROW], PROBLEM_SCHEMA)
    table = table.set_column(table.column_names.index(column), column, values)
    checked = check_table(table, PROBLEM_SCHEMA, "part.parquet")
    assert checked.schema == PROBLEM_SCHEMA
    assert checked[column].to_pylist() == values.to_pylist()


def test_a_table_may_have_more_columns_in_any_order() -> None:
    table = (
        to_table([ROW], PROBLEM_SCHEMA)
        .append_column("more", pa.array([1]))
        .select(["more", *reversed(PROBLEM_SCHEMA.names)])
    )
    assert check_table(table, PROBLEM_SCHEMA, "part.parquet").to_pylist() == [ROW]


@pytest.mark.parametrize(
    "table, words",
    [
        (pa.table({"problem_id": ["p"]}), "part.parquet: column 'question' is missing; found problem_id"),
        (
            to_table([ROW], PROBLEM_SCHEMA).set_column(2, "answer", pa.array([[1]])),
            "part.parquet: columns do not have the expected types",
        ),
    ],
)
def test_a_table_with_other_columns_is_refused(table: pa.Table, words: str) -> None:
    with pytest.raises(InputError) as caught:
        check_table(table, PROBLEM_SCHEMA, "part.parquet")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
