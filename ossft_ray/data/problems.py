"""Training problems from input files and Hub data sets, row by row; unusable rows are set aside."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ossft_ray.common.types import Problem
from ossft_ray.config import Columns, Data
from ossft_ray.data.hub import hub_digest, is_hub_id, read_hub_records
from ossft_ray.data.layouts import UnusableRow, choose_columns, read_texts
from ossft_ray.data.records import Record, file_digest, find_files, read_records
from ossft_ray.verification.answers import answer_text
from ossft_ray.verification.kinds import kinds


@dataclass(frozen=True)
class Rejection:
    """An input row that is set aside; `reason` starts with a short word."""

    reason: str
    record: Record
    problem_id: str | None = None

    def __str__(self) -> str:
        return f"{self.record.source}, row {self.record.row}: {self.reason}"


def noted_row(record: Record, reason: str, problem_id: str | None) -> dict[str, Any]:
    """An input row with a note about it, as a REJECTED row."""
    content = record.raw or json.dumps(record.values, ensure_ascii=False, default=str)
    if not _is_unicode(content):
        content = json.dumps(record.values, default=str)
    return {
        "problem_id": problem_id if problem_id and _is_unicode(problem_id) else None,
        "source": record.source,
        "row": record.row,
        "reason": reason,
        "content": content,
    }


def read_problems(data: Data, kind: str = "math") -> Iterator[tuple[Record, Problem] | Rejection]:
    """Stream the rows of `[data]`: each with its problem, or as a rejection.

    `kind` is the kind of verification for rows that name none. Reasons of rejections: `broken_row: ...`, `no_question`,
    `no_expert_solution`, `not_one_turn`, `no_answer`, `unknown_verifier: ...`. With `no_answer = "expert"`, a row
    without an answer becomes a problem with an empty answer. Ids may repeat.

    Raises:
        InputError: a file is missing or unreadable, or lacks the question's or the expert solution's column.
    """
    index = 0
    for source in _sources(data):
        layout: tuple[Columns, bool] | None = None
        for record in read_hub_records(source, data) if is_hub_id(source) else read_records(source):
            if data.limit is not None and index >= data.limit:
                return
            if record.broken is not None:
                yield Rejection(f"broken_row: {record.broken}", record)
            else:
                layout = layout or choose_columns(record.values, data.columns, record.source)
                yield _read_problem(record, *layout, data, f"{index:08d}", kind)
            index += 1


def source_digests(data: Data) -> list[str]:
    """A digest of each source of `[data]`: of a file's name, size and edges, or of a Hub data set's id and revision.

    Raises:
        InputError: a file is missing.
    """
    return [hub_digest(name, data) if is_hub_id(name) else file_digest(name) for name in _sources(data)]


def read_verifier(value: Any) -> str:
    """The kind of verification that a cell names; empty if it names none.

    Raises:
        UnusableRow: there is no such kind.
    """
    verifier = answer_text(value)
    if verifier and verifier not in kinds():
        raise UnusableRow(f"unknown_verifier: '{verifier}'; kinds: {', '.join(kinds())}")
    return verifier


def check_unicode(problem: Problem) -> Problem:
    """Return the problem if it can be written to files.

    Raises:
        UnusableRow: a text contains half of a surrogate pair, which only a JSON escape can write.
    """
    if not _is_unicode("".join(text or "" for text in vars(problem).values())):
        raise UnusableRow("broken_row: half of a surrogate pair, which is not Unicode text")
    return problem


def _read_problem(
    record: Record, columns: Columns, is_chat: bool, data: Data, default_id: str, kind: str
) -> tuple[Record, Problem] | Rejection:
    problem_id = answer_text(record.values.get(columns.id)) or default_id
    try:
        verifier = read_verifier(record.values.get(columns.verifier))
        texts = read_texts(record.values, columns, is_chat, verifier or kind, strip=data.annotations == "strip")
        if not texts.answer and data.no_answer == "reject":
            raise UnusableRow("no_answer")
        problem = Problem(problem_id, texts.question, texts.answer, texts.expert_solution, verifier)
        return record, check_unicode(problem)
    except UnusableRow as unusable:
        return Rejection(str(unusable), record, problem_id)


def _sources(data: Data) -> list[str]:
    """Files, and ids of data sets on the Hub, in the order of `[data] path`."""
    paths = [data.path] if isinstance(data.path, str) else data.path
    return [source for path in paths for source in ([path] if is_hub_id(path) else find_files(path))]


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
