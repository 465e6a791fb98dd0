"""`ossft verify`: which responses of a file are right? Grades JSONL or Parquet rows of {answer, response}.

The file is read twice, as a stream: once to find whatever is wrong with it before anything is spent, once to grade.
A row without a response counts as `no_answer`, one without an answer as `no_gold`. A row may bring its `question` (some
kinds look at it) and its own `verifier`.
"""

import contextlib
import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ossft_ray.common.errors import InputError
from ossft_ray.common.verdict import CORRECT, MEMORY, TIMEOUT
from ossft_ray.config import Verify
from ossft_ray.data.records import JSONL_SUFFIXES, PARQUET_SUFFIXES, Record, read_records
from ossft_ray.verification.answers import answer_text
from ossft_ray.verification.kinds import kinds
from ossft_ray.verification.pool import VerifierPool
from ossft_ray.verification.worker import Task

BATCH_ROWS = 1024
VERDICT_SCHEMA = pa.schema([("correct", pa.bool_()), ("reason", pa.string()), ("extracted", pa.string())])
_REPORT_SECONDS = 0.2

Row = dict[str, Any]
Write = Callable[[list[Row]], None]
OnProgress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class FileColumns:
    """Which columns of a file hold what. `question` and `verifier` may be missing in the file."""

    answer: str = "answer"
    response: str = "response"
    question: str = "question"
    verifier: str = "verifier"


@dataclass(frozen=True)
class VerifySummary:
    """What grading a file came to. `reasons` counts the rows by reason, the most frequent first."""

    output: Path
    num_rows: int
    num_correct: int
    reasons: dict[str, int]
    seconds: float

    @property
    def accuracy(self) -> float:
        """Share of the rows that are correct, 0..1."""
        return self.num_correct / self.num_rows

    @property
    def num_over_limits(self) -> int:
        """Rows that ran into the limit of time or memory."""
        return self.reasons.get(TIMEOUT, 0) + self.reasons.get(MEMORY, 0)

    @property
    def verdicts_per_second(self) -> float:
        return self.num_rows / self.seconds


def verify_file(
    path: str | Path,
    output: str | Path | None = None,
    verify: Verify | None = None,
    columns: FileColumns | None = None,
    on_progress: OnProgress | None = None,
) -> VerifySummary:
    """Grade each row of a file; write all its columns and `correct`, `reason`, `extracted` to `output`.

    Args:
        path: JSONL or Parquet with an answer (text, numbers, or a list of them) and a response (text, or a chat whose
            last message it is) in each row.
        output: JSONL or Parquet by its suffix; by default the file's name with `.verified` before the suffix. It
            appears only when it is complete.
        verify: the kind, its settings and its limits.
        columns: the file's own names.
        on_progress: called now and then, and at the end, with `total`, `rows`, `correct` and `seconds`.

    Raises:
        InputError: the file, one of its lines or columns, the output's name, or the verifier cannot be used; says
            which and why.
        JobError: no worker can be started.
    """
    verify, columns = verify or Verify(), columns or FileColumns()
    source = Path(path)
    target = source.with_name(f"{source.stem}.verified{source.suffix}") if output is None else Path(output)
    for name in (source, target):
        if name.suffix not in JSONL_SUFFIXES + PARQUET_SUFFIXES:
            raise InputError(f"{name}: unknown kind of file; give .jsonl or .parquet")
    if not source.is_file():
        raise InputError(f"{source}: no such file")
    num_rows = _check_rows(source, columns)
    schema = _schema_of(source) if target.suffix in PARQUET_SUFFIXES else None
    started = reported = time.monotonic()
    reasons: Counter[str] = Counter()

    def report() -> None:
        totals = {"total": num_rows, "rows": reasons.total(), "correct": reasons[CORRECT]}
        if on_progress is not None:
            on_progress(totals | {"seconds": time.monotonic() - started})

    with VerifierPool.of(verify) as pool, _writing(target, schema) as write:
        graded: list[Row] = []
        for row in _graded(source, columns, verify.kind, pool):
            graded.append(row)
            reasons[row["reason"]] += 1
            if len(graded) == BATCH_ROWS:
                write(graded)
                graded = []
            if time.monotonic() - reported > _REPORT_SECONDS:
                reported = time.monotonic()
                report()
        write(graded)
    report()
    return VerifySummary(target, num_rows, reasons[CORRECT], dict(reasons.most_common()), time.monotonic() - started)


def _graded(source: Path, columns: FileColumns, kind: str, pool: VerifierPool) -> Iterator[Row]:
    """The rows with their verdicts, while later rows are read and graded."""
    rows = (record.values for record in read_records(str(source)))
    for row, (verdict,) in pool.map_each(rows, lambda row: [_task(row, columns, kind)]):
        yield row | {"correct": verdict.correct, "reason": verdict.reason, "extracted": verdict.extracted}


def _task(row: Row, columns: FileColumns, kind: str) -> Task:
    verifier = answer_text(row.get(columns.verifier))
    question = row.get(columns.question)
    return Task(
        answer_text(row[columns.answer], verifier or kind),
        _response_text(row[columns.response]) or "",
        question if isinstance(question, str) else "",
        verifier,
    )


def _response_text(value: Any) -> str | None:
    """A response as text, of a chat its last message; None for what is neither."""
    if value is None or isinstance(value, str):
        return value or ""
    is_chat = isinstance(value, list) and value and isinstance(value[-1], dict)
    content = value[-1].get("content") if is_chat else None
    return content if isinstance(content, str) else None


def _check_rows(source: Path, columns: FileColumns) -> int:
    """The number of rows, each of which can be graded."""
    num_rows, known = 0, kinds()
    for num_rows, record in enumerate(read_records(str(source)), start=1):  # noqa: B007
        _check_row(record, columns, known)
    if num_rows == 0:
        raise InputError(f"{source}: the file has no rows")
    return num_rows


def _check_row(record: Record, columns: FileColumns, known: list[str]) -> None:
    place = f"{record.source}:{record.row}"
    if record.broken is not None:
        raise InputError(f"{place}: {record.broken}")
    for role in ("answer", "response"):
        if (name := getattr(columns, role)) not in record.values:
            found = ", ".join(record.values) or "none"
            raise InputError(f"{place}: column '{name}' is missing; found {found}; name it with --{role}-column")
    answer, response = record.values[columns.answer], record.values[columns.response]
    if isinstance(answer, bool | dict | bytes):
        raise InputError(f"{place}: column '{columns.answer}' must hold text or numbers, not {type(answer).__name__}")
    if _response_text(response) is None:
        raise InputError(f"{place}: column '{columns.response}' must hold text, not {type(response).__name__}")
    verifier = answer_text(record.values.get(columns.verifier))
    if verifier and verifier not in known:
        raise InputError(f"{place}: no verification kind '{verifier}'; kinds: {', '.join(known)}")


def _read_batches(source: Path) -> Iterator[list[Row]]:
    rows = (record.values for record in read_records(str(source)))
    while batch := list(itertools.islice(rows, BATCH_ROWS)):
        yield batch


def _schema_of(source: Path) -> pa.Schema:
    """The columns of all rows and the verdict's, which replace those of an earlier grading."""
    if source.suffix in PARQUET_SUFFIXES:
        schema = pq.read_schema(source).remove_metadata()
    else:
        schema = pa.schema([])
        try:
            for batch in _read_batches(source):
                names = dict.fromkeys(name for row in batch for name in row)
                fields = [pa.field(name, pa.array([row.get(name) for row in batch]).type) for name in names]
                schema = pa.unify_schemas([schema, pa.schema(fields)], promote_options="permissive")
        except (pa.ArrowException, UnicodeEncodeError, OverflowError) as error:
            problem = str(error).splitlines()[0]
            raise InputError(f"{source}: its rows do not fit Parquet columns ({problem}); write .jsonl") from error
    kept = [field for field in schema if field.name not in VERDICT_SCHEMA.names]
    return pa.schema([*kept, *VERDICT_SCHEMA])


@contextlib.contextmanager
def _writing(target: Path, schema: pa.Schema | None) -> Iterator[Write]:
    """A function that appends rows to `target` (Parquet if a schema is given, else JSONL), which appears at the end."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{target}: its folder cannot be made: {error.strerror or error}") from error
    try:
        if schema is not None:
            with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
                yield lambda rows: writer.write_table(pa.Table.from_pylist(rows, schema=schema))
        else:
            with temporary.open("w", encoding="utf-8") as file:
                yield lambda rows: file.writelines(f"{_as_json(row)}\n" for row in rows)
        os.replace(temporary, target)
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _as_json(row: Row) -> str:
    text = json.dumps(row, ensure_ascii=False, default=str)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can write
        return json.dumps(row, default=str)
    return text
