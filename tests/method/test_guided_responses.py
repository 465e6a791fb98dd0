"""The rules for guided responses, on labelled ones: SmolLM2's own, all with the right answer, read one by one.

A line holds a response, the problem's answer, whether it is a sound solution, and why not: `nothing` is derived, its
`arithmetic` or `reasoning` is wrong, it `talk`s about the guide or the task, it is a `contradiction`. The rules were
written with the half `rules` in view. Questions and guides of GSM8K are not stored; an id names its row, from 0.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from ossft_ray.common.types import Problem, Response
from ossft_ray.config import Rewrite
from ossft_ray.data.layouts import strip_annotations
from ossft_ray.method.acceptance import find_fault
from tests.data_folder import needs_data, read_data

LABELLED = [
    json.loads(line)
    for line in Path(__file__).with_name("guided_responses.jsonl").read_text(encoding="utf-8").splitlines()
]


def problem_of(row: dict[str, Any], gsm8k: list[dict[str, Any]]) -> Problem:
    if "question" in row:
        return Problem(row["id"], row["question"], row["answer"], row["guide"])
    source = gsm8k[int(row["id"].removeprefix("gsm8k-").partition("/")[0])]
    return Problem(row["id"], source["question"], row["answer"], strip_annotations(source["answer"]))


@needs_data
@pytest.mark.parametrize("half, most_unsound", [("rules", 1), ("held_out", 1)])
def test_unsound_responses_are_refused_and_sound_ones_kept(half: str, most_unsound: int) -> None:
    gsm8k = read_data("gsm8k_train")
    kept = [
        row
        for row in LABELLED
        if row["half"] == half
        and find_fault(Response(row["response"], [], "stop"), "guided", problem_of(row, gsm8k), Rewrite()) is None
    ]
    sound = [row["id"] for row in LABELLED if row["half"] == half and row["sound"]]
    assert [row["id"] for row in kept if row["sound"]] == sound
    assert len([row["id"] for row in kept if not row["sound"]]) <= most_unsound
