"""Where problems come from: input files and benchmarks, row by row; a row that cannot be used is set aside."""

import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ossft_ray import builtin
from ossft_ray.config import Columns, Data, Evaluate
from ossft_ray.errors import InputError
from ossft_ray.method.rewriting import Problem
from ossft_ray.records import JSONL_SUFFIXES, PARQUET_SUFFIXES, Record, find_files, read_records
from ossft_ray.verification.answers import answer_text, final_answer

PAPER_BENCHMARKS = ("math500", "minerva_math", "olympiadbench", "aime24", "amc23")
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
        content = self.record.raw or json.dumps(self.record.values, ensure_ascii=False, default=str)
        if not _is_unicode(content):
            content = json.dumps(self.record.values, default=str)
        return {
            "problem_id": self.problem_id if _is_unicode(self.problem_id) else None,
            "source": self.record.source,
            "row": self.record.row,
            "reason": self.reason,
            "content": content,
        }


def read_problems(data: Data) -> Iterator[tuple[Record, Problem] | Rejection]:
    """Stream the training problems of `[data]`, each with the record it came from, or why it is set aside.

    Reasons: `broken_row: ...`, `no_question`, `no_expert_solution`, `no_answer`, `duplicate_id`.

    Raises:
        InputError: a file is missing or unreadable, or lacks the question's or the expert solution's column.
    """
    seen: set[str] = set()
    index = 0
    for path in find_files(data.path):
        columns_checked = False
        for record in read_records(path):
            if data.limit is not None and index >= data.limit:
                return
            if not columns_checked and record.broken is None:
                _check_columns(record, data.columns)
                columns_checked = True
            try:
                problem = _problem(record, data.columns, default_id=f"{index:08d}")
                if problem.problem_id in seen:
                    raise Rejection("duplicate_id", record, problem.problem_id)
                seen.add(problem.problem_id)
                yield record, problem
            except Rejection as rejection:
                yield rejection
            index += 1


def read_benchmark(name: str, settings: Evaluate) -> list[Problem]:
    """The problems of one benchmark: a playground level, one of the paper's five from `data_dir`, or a file.

    Raises:
        InputError: the name is unknown, the file is missing, or a row has no question, no answer or another's id.
    """
    path = benchmark_file(name, settings)
    problems: dict[str, Problem] = {}
    for index, record in enumerate(read_records(path)):
        problem = _benchmark_problem(record, index)
        if problem.problem_id in problems:
            raise InputError(
                f"{record.source}, row {record.row}: id '{problem.problem_id}' came before; make it unique"
            )
        problems[problem.problem_id] = problem
    if not problems:
        raise InputError(f"{path}: holds no problems")
    return list(problems.values())


def benchmark_file(name: str, settings: Evaluate) -> str:
    """The file behind a benchmark's name.

    Raises:
        InputError: no such name or file; gives the nearest valid name.
    """
    if name in builtin.BENCHMARKS:
        return str(builtin.BENCHMARKS[name])
    if name in PAPER_BENCHMARKS:
        path = str(Path(settings.data_dir).expanduser() / f"{name}.jsonl")
        if not settings.data_dir or not Path(path).is_file():
            where = f"no {name}.jsonl in {settings.data_dir}" if settings.data_dir else "its file is not given"
            raise InputError(f"[evaluate] benchmark '{name}': {where}; set evaluate.data_dir to a folder that holds it")
        return path
    if name.endswith(JSONL_SUFFIXES + PARQUET_SUFFIXES):
        return find_files(name)[0]
    known = [*builtin.BENCHMARKS, *PAPER_BENCHMARKS]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}, or a .jsonl or .parquet file"
    raise InputError(f"[evaluate] unknown benchmark '{name}'; {hint}")


def _problem(record: Record, columns: Columns, default_id: str) -> Problem:
    if record.broken is not None:
        raise Rejection(f"broken_row: {record.broken}", record)
    values = record.values
    problem_id = answer_text(values.get(columns.id)) or default_id
    question, expert_solution = values.get(columns.question), values.get(columns.expert_solution)
    if not isinstance(question, str) or not question.strip():
        raise Rejection("no_question", record, problem_id)
    if not isinstance(expert_solution, str) or not expert_solution.strip():
        raise Rejection("no_expert_solution", record, problem_id)
    own_column = columns.answer in values and columns.answer != columns.expert_solution
    answer = _gold(values[columns.answer]) if own_column else final_answer(expert_solution)
    if not answer:
        raise Rejection("no_answer", record, problem_id)
    problem = Problem(problem_id, question, answer, expert_solution)
    if not _is_unicode(*vars(problem).values()):
        raise Rejection(f"broken_row: {_HALF_A_PAIR}", record, problem_id)
    return problem


def _is_unicode(*texts: str | None) -> bool:
    """False for text with half of a surrogate pair, which only a JSON escape can write."""
    try:
        "".join(text or "" for text in texts).encode()
    except UnicodeEncodeError:
        return False
    return True


def _gold(value: Any) -> str:
    """An answer cell as text; of a whole solution in GSM8K's layout, what follows `####`."""
    text = answer_text(value)
    return final_answer(text) or text if "####" in text else text


def _check_columns(record: Record, columns: Columns) -> None:
    for key in ("question", "expert_solution"):
        name = getattr(columns, key)
        if name not in record.values:
            found = ", ".join(map(str, record.values)) or "none"
            raise InputError(f"{record.source}: no column '{name}'; found: {found}; name it in [data] columns.{key}")


def _benchmark_problem(record: Record, index: int) -> Problem:
    if record.broken is not None:
        raise InputError(f"{record.source}, row {record.row}: {record.broken}")
    values = record.values
    question = next((values[name] for name in _QUESTION_COLUMNS if values.get(name)), None)
    if not isinstance(question, str):
        raise InputError(f"{record.source}, row {record.row}: no question in column 'problem' or 'question'")
    answer = next((_gold(values[name]) for name in _ANSWER_COLUMNS if name in values), "")
    answer = answer or final_answer(str(values.get("solution") or "")) or ""
    if not answer:
        raise InputError(f"{record.source}, row {record.row}: no answer in column 'answer', nor boxed in 'solution'")
    context = values.get("context")
    text = f"{context}\n{question}" if isinstance(context, str) and context else question
    problem = Problem(answer_text(values.get("id")) or f"{index:05d}", text, answer, None)
    if not _is_unicode(*vars(problem).values()):
        raise InputError(f"{record.source}, row {record.row}: {_HALF_A_PAIR}")
    return problem
