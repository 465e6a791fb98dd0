"""The examples in the report: a bounded number, spread evenly over origins and parts, so that any run fits a page."""

from dataclasses import dataclass
from itertools import accumulate, zip_longest
from typing import Any

from markupsafe import escape

from ossft_ray.common.schema import EXAMPLE_SCHEMA
from ossft_ray.common.types import count_origins
from ossft_ray.report.word_difference import mark_differences
from ossft_ray.run_folder.names import PARTS
from ossft_ray.run_folder.reader import RunFolder, columns, read_columns

NUM_EXAMPLES = 240  # of all runs together
MAX_BYTES = 2_500_000  # of their texts
_MAX_CHARACTERS = 6_000  # of one text
_MAX_ATTEMPT_CHARACTERS = 1_500
_MARKUP_BYTES = 300  # around one text
_TEXTS = ("problem_id", "question", "answer", "expert_solution", "response")
_COLUMNS = columns(EXAMPLE_SCHEMA, *_TEXTS, "origin", "num_attempts", "num_correct", "attempts", "attempt_answers")


@dataclass(frozen=True)
class ChosenExamples:
    """The examples of one run that are shown, and how many of each origin exist."""

    rows: list[dict[str, Any]]
    num_shown: dict[str, int]
    num_all: dict[str, int]


def choose_examples(run: RunFolder, num_examples: int, max_bytes: int = MAX_BYTES) -> ChosenExamples:
    """Choose examples of a run, those of each origin evenly spread over the parts.

    Only parts with a chosen row are read in full. Long texts are cut and say so. Once the texts reach `max_bytes`, no
    more are taken.

    Raises:
        InputError: a part cannot be read, or lacks a column.
    """
    places: dict[str, list[tuple[str, int]]] = {origin: [] for origin in count_origins({})}
    for part in run.rewrite.names(PARTS):
        origins = read_columns(run.rewrite, part, columns(EXAMPLE_SCHEMA, "origin"))["origin"].to_pylist()
        for index, origin in enumerate(origins):
            places.setdefault(origin, []).append((part, index))
    num_all = {origin: len(found) for origin, found in places.items()}
    quotas = share_evenly(num_all, num_examples)
    chosen = [spread(found, quotas[origin]) for origin, found in places.items()]
    # One of each origin in turn, so that a limit on bytes cuts all origins alike
    wanted = [place for places_in_turn in zip_longest(*chosen) for place in places_in_turn if place is not None]
    indices: dict[str, list[int]] = {}
    for part, index in wanted:
        indices.setdefault(part, []).append(index)
    read = {
        (part, index): _prepare(row)
        for part, of_part in indices.items()
        for index, row in zip(of_part, read_columns(run.rewrite, part, _COLUMNS).take(of_part).to_pylist(), strict=True)
    }
    sizes = accumulate(_num_bytes(read[place]) for place in wanted)
    rows = [read[place] for place, size in zip(wanted, sizes, strict=True) if size <= max_bytes]
    num_shown = {origin: sum(row["origin"] == origin for row in rows) for origin in places}
    return ChosenExamples(rows, num_shown, num_all)


def share_evenly(counts: dict[str, int], total: int) -> dict[str, int]:
    """Share `total` places evenly; the places that one kind cannot fill go to the others.

    >>> share_evenly({"self": 50, "guided": 2, "expert": 50}, 30)
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


def _prepare(row: dict[str, Any]) -> dict[str, Any]:
    """The row with shortened texts; `marked` holds the expert's and the kept text with their differences."""
    answers = row["attempt_answers"] or [None] * len(row["attempts"] or [])
    attempts = []
    for attempt, answer in zip(row["attempts"] or [], answers, strict=False):
        response = _shortened(attempt["response"], _MAX_ATTEMPT_CHARACTERS)
        attempts.append(attempt | {"response": response, "answer": _shortened(answer, 200)})
    row = row | {name: _shortened(row[name], _MAX_CHARACTERS) for name in _TEXTS} | {"attempts": attempts}
    return row | {"marked": mark_differences(row["expert_solution"] or "", row["response"] or "")}


def _shortened(text: str | None, limit: int) -> str | None:
    return None if text is None else shorten(text, limit)


def shorten(text: str, limit: int) -> str:
    """A text of at most `limit` characters, and how many more there are."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}… [{len(text) - limit:,} more characters]"


def _num_bytes(row: dict[str, Any]) -> int:
    texts = [row["question"], *row["marked"], *(attempt["response"] for attempt in row["attempts"])]
    return sum(len(escape(text or "").encode(errors="replace")) + _MARKUP_BYTES for text in texts)
