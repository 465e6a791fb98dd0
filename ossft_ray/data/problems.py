"""Training problems from input files and Hub data sets, row by row; unusable rows are set aside."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ossft_ray.common.types import Problem
from ossft_ray.config import Data
from ossft_ray.data.chats import UnusableRow
from ossft_ray.data.hub import hub_digest, is_hub_id, read_hub_records
from ossft_ray.data.layouts import Layout, choose_layout, read_texts
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
    `no_expert_solution`, `broken_chat: ...`, `not_text: ...`, `no_answer`, `unknown_verifier: ...`. With
    `no_answer = "expert"`, a row without an answer becomes a problem with an empty answer. Ids may repeat.

    Raises:
        InputError: a file is missing or unreadable, or lacks the question's or the expert solution's column.
    """
    ids = _RowIds()
    for source in data_sources(data):
        layout: Layout | None = None
        for record in _read_source(source, data):
            if data.limit is not None and ids.num_rows >= data.limit:
                return
            if record.broken is not None:
                ids.next("")
                yield Rejection(f"broken_row: {record.broken}", record)
            else:
                layout = layout or choose_layout(record.values, data.columns, record.source)
                problem_id = ids.next(answer_text(layout.value("id", record.values)))
                yield _read_problem(record, layout, data, problem_id, kind)


@dataclass(frozen=True)
class SourceLayout:
    """The layout of one source of `[data]`; `columns` are those that are read, by what they hold."""

    source: str
    name: str  # in a few words
    columns: dict[str, str]
    unread: tuple[str, ...]
    doubtful: tuple[str, ...]  # unread columns that may belong to the question


def read_layout(source: str, data: Data) -> SourceLayout | None:
    """The layout of a source, from its first row that is not broken; None if there is none.

    Raises:
        InputError: as `read_problems`.
    """
    first = next((record for record in _read_source(source, data) if record.broken is None), None)
    if first is None:
        return None
    layout = choose_layout(first.values, data.columns, first.source)
    return SourceLayout(source, layout.name, layout.described(first.values), layout.unread, layout.doubtful)


class _RowIds:
    """The ids of rows: a row's own id, or else its number, unless that is another row's own id."""

    def __init__(self) -> None:
        self._is_numbered = bytearray()  # by row
        self._own_numbers: set[str] = set()  # own ids that look like the number of a row that is still to come

    @property
    def num_rows(self) -> int:
        return len(self._is_numbered)

    def next(self, own: str) -> str:
        """The id of the next row; `own` is its own id, or empty."""
        index, number = self.num_rows, f"{self.num_rows:08d}"
        self._is_numbered.append(not own)
        if not own:
            return f"row-{number}" if number in self._own_numbers else number
        if len(own) == len(number) and own.isascii() and own.isdigit():
            if int(own) > index:
                self._own_numbers.add(own)
            elif self._is_numbered[int(own)]:
                return f"id-{own}"
        return own


def source_digests(data: Data) -> list[str]:
    """A digest of each source of `[data]`: of a file's name, size and edges, or of a Hub data set's id and revision.

    Raises:
        InputError: a file is missing.
    """
    return [hub_digest(name, data) if is_hub_id(name) else file_digest(name) for name in data_sources(data)]


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
    record: Record, layout: Layout, data: Data, problem_id: str, kind: str
) -> tuple[Record, Problem] | Rejection:
    try:
        verifier = read_verifier(layout.value("verifier", record.values))
        texts = read_texts(record.values, layout, verifier or kind, strip=data.annotations == "strip")
        if not texts.answer and data.no_answer == "reject":
            raise UnusableRow("no_answer")
        solution, conversation = texts.expert_solution, texts.conversation
        problem = Problem(problem_id, texts.question, texts.answer, solution, verifier, conversation)
        return record, check_unicode(problem)
    except UnusableRow as unusable:
        return Rejection(str(unusable), record, problem_id)


def _read_source(source: str, data: Data) -> Iterator[Record]:
    return read_hub_records(source, data) if is_hub_id(source) else read_records(source)


def data_sources(data: Data) -> list[str]:
    """Files, and ids of data sets on the Hub, in the order of `[data] path`.

    Raises:
        InputError: a file is missing, or of an unknown kind.
    """
    paths = [data.path] if isinstance(data.path, str) else data.path
    return [source for path in paths for source in ([path] if is_hub_id(path) else find_files(path))]


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
