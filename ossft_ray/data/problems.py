"""Where problems come from: input files, Hub data sets and benchmarks, row by row; a row without use is set aside.

`layouts.py` holds the table of layouts that are recognised.
"""

import difflib
import json
from collections.abc import Iterator
from functools import cache
from typing import Any, Literal

from ossft_ray.common import playground_paths
from ossft_ray.common.errors import InputError
from ossft_ray.common.storage import Folder, digest_files
from ossft_ray.common.types import Problem
from ossft_ray.common.uris import join, split_options
from ossft_ray.config import Columns, Data, Evaluate
from ossft_ray.data.hub import BENCHMARKS, hub_digest, is_hub_id, read_hub_benchmark, read_hub_records
from ossft_ray.data.layouts import Unusable, choose_columns, gold_answer, read_texts
from ossft_ray.data.records import JSONL_SUFFIXES, PARQUET_SUFFIXES, Record, find_files, read_records
from ossft_ray.verification.answers import answer_text, final_answer
from ossft_ray.verification.kinds import kinds

PAPER_BENCHMARKS = tuple(BENCHMARKS)
_QUESTION_COLUMNS = ("problem", "question")
_ANSWER_COLUMNS = ("answer", "final_answer")
_HALF_A_PAIR = "half of a surrogate pair, which is no Unicode text"


class Rejection(Exception):
    """An input row that is set aside: `reason` is a short word, the arguments explain it."""

    def __init__(self, reason: str, record: Record, problem_id: str | None = None) -> None:
        super().__init__(f"{record.source}, row {record.row}: {reason}")
        self.reason, self.record, self.problem_id = reason, record, problem_id

    def as_row(self) -> dict[str, Any]:
        """As a REJECTED row."""
        return noted_row(self.record, self.reason, self.problem_id)


def noted_row(record: Record, reason: str, problem_id: str | None) -> dict[str, Any]:
    """An input row with what there is to say about it, as a REJECTED row."""
    content = record.raw or json.dumps(record.values, ensure_ascii=False, default=str)
    if not _is_unicode(content):
        content = json.dumps(record.values, default=str)
    return {
        "problem_id": problem_id if _is_unicode(problem_id) else None,
        "source": record.source,
        "row": record.row,
        "reason": reason,
        "content": content,
    }


def read_problems(data: Data, kind: str = "math") -> Iterator[tuple[Record, Problem] | Rejection]:
    """Stream the training problems of `[data]`, each with the record it came from, or why it is set aside.

    `kind` is the verification of rows that name none of their own. Reasons: `broken_row: ...`, `no_question`,
    `no_expert_solution`, `not_one_turn`, `no_answer`, `unknown_verifier: ...`. A row without an
    answer becomes a problem whose answer is empty if `no_answer = "expert"`. Ids may repeat.

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
    """What identifies each source of `[data]`: a file's name, size and edges, a Hub data set's id, subset and revision.

    Raises:
        InputError: a file is missing.
    """
    return [hub_digest(name, data) if is_hub_id(name) else _file_digest(name) for name in _sources(data)]


def read_benchmark(name: str, settings: Evaluate, kind: str = "math") -> list[Problem]:
    """The problems of one benchmark: a playground level, one of the paper's five (`data_dir` or Hub), or a file.

    `kind` is the verification of rows whose column `verifier` names none.

    Raises:
        InputError: the name is unknown, the file is missing, or a row has no question, no answer, another's id or an
            unknown verifier.
    """
    from_hub = is_from_hub(name, settings)
    path = name if from_hub else benchmark_file(name, settings)
    problems: dict[str, Problem] = {}
    for index, record in enumerate(read_hub_benchmark(name) if from_hub else read_records(path)):
        problem = _benchmark_problem(record, index, kind)
        if problem.problem_id in problems:
            raise InputError(
                f"{record.source}, row {record.row}: id '{problem.problem_id}' came before; make it unique"
            )
        problems[problem.problem_id] = problem
    if not problems:
        raise InputError(f"{path}: holds no problems")
    return list(problems.values())


def is_from_hub(name: str, settings: Evaluate) -> bool:
    """Whether a benchmark is one of the paper's, and no folder of files is given."""
    return name in PAPER_BENCHMARKS and not settings.data_dir


def benchmark_digest(name: str, settings: Evaluate) -> str:
    """What identifies a benchmark: its file's contents, or its place on the Hub.

    Raises:
        InputError: no such name or file.
    """
    if is_from_hub(name, settings):
        return hub_digest(str(BENCHMARKS[name].path), BENCHMARKS[name])
    folder, file = Folder.of_file(benchmark_file(name, settings))
    return digest_files(folder, [file])


def benchmark_file(name: str, settings: Evaluate) -> str:
    """The file behind a benchmark's name.

    Raises:
        InputError: no such name or file; gives the nearest valid name.
    """
    if name in playground_paths.BENCHMARKS:
        return str(playground_paths.BENCHMARKS[name])
    if name in PAPER_BENCHMARKS:
        path = join(settings.data_dir, f"{name}.jsonl")
        folder, file = Folder.of_file(path)
        if not folder.exists(file):
            raise InputError(
                f"[evaluate] benchmark '{name}': no {name}.jsonl in {settings.data_dir}; "
                "set evaluate.data_dir to a folder that holds it, or to nothing for the Hub's"
            )
        return path
    if split_options(name)[0].endswith(JSONL_SUFFIXES + PARQUET_SUFFIXES):
        return find_files(name)[0]
    known = [*playground_paths.BENCHMARKS, *PAPER_BENCHMARKS]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}, or a .jsonl or .parquet file"
    raise InputError(f"[evaluate] unknown benchmark '{name}'; {hint}")


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
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def _problem(
    record: Record, columns: Columns, is_chat: bool, no_answer: Literal["reject", "expert"], default_id: str, kind: str
) -> Problem:
    if record.broken is not None:
        raise Rejection(f"broken_row: {record.broken}", record)
    problem_id = answer_text(record.values.get(columns.id)) or default_id
    verifier = answer_text(record.values.get(columns.verifier))
    if verifier and verifier not in _kinds():
        raise Rejection(f"unknown_verifier: '{verifier}'; kinds: {', '.join(_kinds())}", record, problem_id)
    try:
        texts = read_texts(record.values, columns, is_chat, verifier or kind)
    except Unusable as unusable:
        raise Rejection(str(unusable), record, problem_id) from None
    if not texts.answer and no_answer == "reject":
        raise Rejection("no_answer", record, problem_id)
    problem = Problem(problem_id, texts.question, texts.answer, texts.expert_solution, verifier)
    if not _is_unicode(*vars(problem).values()):
        raise Rejection(f"broken_row: {_HALF_A_PAIR}", record, problem_id)
    return problem


@cache
def _kinds() -> list[str]:
    return kinds()


def _is_unicode(*texts: str | None) -> bool:
    """False for text with half of a surrogate pair, which only a JSON escape can write."""
    try:
        "".join(text or "" for text in texts).encode()
    except UnicodeEncodeError:
        return False
    return True


def _benchmark_problem(record: Record, index: int, kind: str) -> Problem:
    if record.broken is not None:
        raise InputError(f"{record.source}, row {record.row}: {record.broken}")
    values = record.values
    question = next((values[name] for name in _QUESTION_COLUMNS if values.get(name)), None)
    if not isinstance(question, str):
        raise InputError(f"{record.source}, row {record.row}: no question in column 'problem' or 'question'")
    verifier = answer_text(values.get("verifier"))
    if verifier and verifier not in _kinds():
        raise InputError(f"{record.source}, row {record.row}: no verification kind '{verifier}'; kinds: {_kinds()}")
    answers = (gold_answer(values[name], verifier or kind) for name in _ANSWER_COLUMNS if name in values)
    answer = next(answers, "")
    answer = answer or final_answer(str(values.get("solution") or "")) or ""
    if not answer:
        raise InputError(f"{record.source}, row {record.row}: no answer in column 'answer', nor boxed in 'solution'")
    context = values.get("context")
    text = f"{context}\n{question}" if isinstance(context, str) and context else question
    problem = Problem(answer_text(values.get("id")) or f"{index:05d}", text, answer, None, verifier)
    if not _is_unicode(*vars(problem).values()):
        raise InputError(f"{record.source}, row {record.row}: {_HALF_A_PAIR}")
    return problem
