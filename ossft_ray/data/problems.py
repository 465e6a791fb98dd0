"""Training problems from input files and Hub data sets, row by row; unusable rows are set aside.

`layouts.py` holds the table of the layouts that are recognised.
"""

import json
from collections.abc import Iterator
from functools import cache
from typing import Any, Literal

from ossft_ray.common.errors import InputError, brief
from ossft_ray.common.storage import Folder, digest_files
from ossft_ray.common.types import Problem
from ossft_ray.config import Columns, Data
from ossft_ray.data.hub import hub_digest, is_hub_id, read_hub_records
from ossft_ray.data.layouts import UnusableRow, choose_columns, read_texts
from ossft_ray.data.records import Record, find_files, read_records
from ossft_ray.verification.answers import answer_text
from ossft_ray.verification.kinds import kinds

HALF_SURROGATE = "half of a surrogate pair, which is not Unicode text"


class Rejection(Exception):
    """An input row that is set aside: `reason` starts with a short word, and the arguments explain it."""

    def __init__(self, reason: str, record: Record, problem_id: str | None = None) -> None:
        super().__init__(f"{record.source}, row {record.row}: {reason}")
        self.reason, self.record, self.problem_id = reason, record, problem_id

    def as_row(self) -> dict[str, Any]:
        """As a REJECTED row."""
        return noted_row(self.record, self.reason, self.problem_id)


def noted_row(record: Record, reason: str, problem_id: str | None) -> dict[str, Any]:
    """An input row with a note about it, as a REJECTED row."""
    content = record.raw or json.dumps(record.values, ensure_ascii=False, default=str)
    if not is_unicode(content):
        content = json.dumps(record.values, default=str)
    return {
        "problem_id": problem_id if is_unicode(problem_id) else None,
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
        for record in _records(source, data):
            if data.limit is not None and index >= data.limit:
                return
            if layout is None and record.broken is None:
                layout = choose_columns(record.values, data.columns, record.source)
            try:
                yield record, _problem(record, *(layout or (data.columns, False)), data.no_answer, f"{index:08d}", kind)
            except Rejection as rejection:
                yield rejection
            index += 1


def source_digests(data: Data) -> list[str]:
    """A digest of each source of `[data]`: of a file's name, size and edges, or of a Hub data set's id and revision.

    Raises:
        InputError: a file is missing.
    """
    return [hub_digest(name, data) if is_hub_id(name) else _file_digest(name) for name in _sources(data)]


@cache
def verifier_kinds() -> list[str]:
    """The names of the kinds of verification that rows may ask for."""
    return kinds()


def is_unicode(*texts: str | None) -> bool:
    """False if a text contains half of a surrogate pair, which only a JSON escape can write."""
    try:
        "".join(text or "" for text in texts).encode()
    except UnicodeEncodeError:
        return False
    return True


def _sources(data: Data) -> list[str]:
    """Files, and ids of data sets on the Hub, in the order of `[data] path`."""
    paths = [data.path] if isinstance(data.path, str) else data.path
    return [source for path in paths for source in ([path] if is_hub_id(path) else find_files(path))]


def _records(source: str, data: Data) -> Iterator[Record]:
    return read_hub_records(source, data) if is_hub_id(source) else read_records(source)


def _file_digest(path: str) -> str:
    folder, name = Folder.of_file(path)
    try:
        return digest_files(folder, [name])
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {brief(error)}") from error


def _problem(
    record: Record, columns: Columns, is_chat: bool, no_answer: Literal["reject", "expert"], default_id: str, kind: str
) -> Problem:
    if record.broken is not None:
        raise Rejection(f"broken_row: {record.broken}", record)
    problem_id = answer_text(record.values.get(columns.id)) or default_id
    verifier = answer_text(record.values.get(columns.verifier))
    if verifier and verifier not in verifier_kinds():
        raise Rejection(f"unknown_verifier: '{verifier}'; kinds: {', '.join(verifier_kinds())}", record, problem_id)
    try:
        texts = read_texts(record.values, columns, is_chat, verifier or kind)
    except UnusableRow as unusable:
        raise Rejection(str(unusable), record, problem_id) from None
    if not texts.answer and no_answer == "reject":
        raise Rejection("no_answer", record, problem_id)
    problem = Problem(problem_id, texts.question, texts.answer, texts.expert_solution, verifier)
    if not is_unicode(*vars(problem).values()):
        raise Rejection(f"broken_row: {HALF_SURROGATE}", record, problem_id)
    return problem
