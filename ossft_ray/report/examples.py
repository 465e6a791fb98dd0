"""Which examples stand in the report? A bounded number, chosen evenly by origin, so that any run fits a page."""

from dataclasses import dataclass, field
from typing import Any

from markupsafe import escape

from ossft_ray.common.schema import EXAMPLE_SCHEMA
from ossft_ray.common.types import ORIGINS
from ossft_ray.run_folder.names import REWRITE
from ossft_ray.run_folder.rounds import RunFiles, columns, read_columns

NUM_EXAMPLES = 240  # of all runs together
MAX_BYTES = 2_500_000  # of their texts
_MAX_CHARACTERS = 6_000  # of one text
_MAX_ATTEMPT_CHARACTERS = 1_500
_COLUMNS = columns(
    EXAMPLE_SCHEMA,
    "problem_id",
    "question",
    "answer",
    "expert_solution",
    "response",
    "origin",
    "num_attempts",
    "num_correct",
    "attempts",
    "attempt_answers",
)


@dataclass(frozen=True)
class Chosen:
    """The examples of one run that are shown, and how many of each origin there are."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    shown: dict[str, int] = field(default_factory=dict)
    there_are: dict[str, int] = field(default_factory=dict)


def choose(run: RunFiles, num_examples: int, max_bytes: int = MAX_BYTES) -> Chosen:
    """Examples of a run, of each origin evenly spread over the parts.

    Only the parts with a chosen row are read in full. Long texts are cut, and say so; once the texts come to
    `max_bytes`, no more are taken.

    Raises:
        InputError: a part cannot be read, or lacks a column.
    """
    places: dict[str, list[tuple[str, int]]] = {origin: [] for origin in ORIGINS}
    for part, _, origins in run.origins:
        for index, origin in enumerate(origins):
            places.setdefault(origin, []).append((part, index))
    quotas = shares({origin: len(found) for origin, found in places.items()}, num_examples)
    wanted = [place for origin, found in places.items() for place in spread(found, quotas[origin])]
    by_part: dict[str, list[int]] = {}
    for part, index in wanted:
        by_part.setdefault(part, []).append(index)
    read = {
        (part, index): _cut(row)
        for part, indices in by_part.items()
        for index, row in zip(
            indices, read_columns(run.folder / REWRITE, part, _COLUMNS).take(indices).to_pylist(), strict=True
        )
    }
    rows, num_bytes = [], 0
    for row in _in_turn([[read[place] for place in spread(found, quotas[o])] for o, found in places.items()]):
        num_bytes += _size(row)
        if num_bytes > max_bytes:
            break
        rows.append(row)
    shown = {origin: sum(row["origin"] == origin for row in rows) for origin in places}
    return Chosen(rows, shown, {origin: len(found) for origin, found in places.items()})


def shares(counts: dict[str, int], total: int) -> dict[str, int]:
    """`total` places shared evenly; what one kind cannot fill goes to the others.

    >>> shares({"self": 50, "guided": 2, "expert": 50}, 30)
    {'guided': 2, 'self': 14, 'expert': 14}
    """
    given: dict[str, int] = {}
    for position, (name, count) in enumerate(sorted(counts.items(), key=lambda item: item[1])):
        given[name] = min(count, (total - sum(given.values())) // (len(counts) - position))
    return given


def spread(items: list[Any], count: int) -> list[Any]:
    """`count` of the items, at even distances from the first.

    >>> spread([0, 1, 2, 3, 4, 5], 3)
    [0, 2, 4]
    """
    return [items[number * len(items) // count] for number in range(count)]


def _in_turn(lists: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    longest = max(map(len, lists), default=0)
    return [each[number] for number in range(longest) for each in lists if number < len(each)]


def _cut(row: dict[str, Any]) -> dict[str, Any]:
    answers = row["attempt_answers"] or [None] * len(row["attempts"] or [])
    attempts = [
        attempt
        | {"response": _shortened(attempt["response"], _MAX_ATTEMPT_CHARACTERS), "answer": _shortened(answer, 200)}
        for attempt, answer in zip(row["attempts"] or [], answers, strict=False)
    ]
    texts = ("problem_id", "question", "answer", "expert_solution", "response")
    return row | {name: _shortened(row[name], _MAX_CHARACTERS) for name in texts} | {"attempts": attempts}


def _shortened(text: str | None, limit: int) -> str | None:
    if text is None or len(text) <= limit:
        return text
    return f"{text[:limit]}… [{len(text) - limit:,} more characters]"


def _size(row: dict[str, Any]) -> int:
    texts = [row["question"], row["expert_solution"], row["response"], *(a["response"] for a in row["attempts"])]
    return sum(len(escape(text or "").encode(errors="replace")) + 300 for text in texts)  # 300: the markup around it
