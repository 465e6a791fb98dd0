"""`ossft verify`: which responses of a file are right? Grades JSONL or Parquet rows of {answer, response}.

The file is read twice, in batches: once to find whatever is wrong with it before anything is spent, once to grade.
A row without a response counts as `no_answer`, one without an answer as `no_gold`.
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

from ossft_ray.data.records import JSONL_SUFFIXES, PARQUET_SUFFIXES, Record, read_records
from ossft_ray.errors import InputError
from ossft_ray.verification.answers import answer_text
from ossft_ray.verification.pool import VerifierPool
from ossft_ray.verification.verdict import CORRECT

BATCH_ROWS = 1024
VERDICT_SCHEMA = pa.schema([("correct", pa.bool_()), ("reason", pa.string()), ("extracted", pa.string())])

Row = dict[str, Any]
Write = Callable[[list[Row]], None]


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


def verify_file(
    path: str | Path,
    output: str | Path | None = None,
    kind: str = "math",
    timeout_seconds: float = 5.0,
    num_workers: int = 2,
    on_progress: Callable[[int], None] | None = None,
) -> VerifySummary:
    """Grade each row of a file; write all its columns and `correct`, `reason`, `extracted` to `output`.

    Args:
        path: JSONL or Parquet with the columns `answer` (text or numbers) and `response` (text).
        output: JSONL or Parquet by its suffix; by default the file's name with `.verified` before the suffix. It
            appears only when it is complete.
        kind: which grader, see `VerifierPool`.
        timeout_seconds: processor time that one row may take.
        num_workers: processes that grade at the same time.
        on_progress: called after each row with the number of rows graded so far.

    Raises:
        InputError: the file, one of its lines or columns, or the output's name cannot be used; says which and why.
        JobError: no worker can be started.
    """
    source = Path(path)
    target = source.with_name(f"{source.stem}.verified{source.suffix}") if output is None else Path(output)
    for name in (source, target):
        if name.suffix not in JSONL_SUFFIXES + PARQUET_SUFFIXES:
            raise InputError(f"{name}: unknown kind of file; give .jsonl or .parquet")
    if not source.is_file():
        raise InputError(f"{source}: no such file")
    _check_rows(source)
    schema = _schema_of(source) if target.suffix in PARQUET_SUFFIXES else None
    started = time.monotonic()
    reasons: Counter[str] = Counter()
    with VerifierPool(kind, timeout_seconds, num_workers) as pool, _writing(target, schema) as write:
        for batch in _read_batches(source):
            pairs = ((answer_text(row["answer"]), row["response"] or "") for row in batch)
            for row, verdict in zip(batch, pool.map(pairs), strict=True):
                row |= {"correct": verdict.correct, "reason": verdict.reason, "extracted": verdict.extracted}
                reasons[verdict.reason] += 1
                if on_progress is not None:
                    on_progress(reasons.total())
            write(batch)
    seconds = time.monotonic() - started
    return VerifySummary(target, reasons.total(), reasons[CORRECT], dict(reasons.most_common()), seconds)


def _check_rows(source: Path) -> None:
    num_rows = 0
    for num_rows, record in enumerate(read_records(str(source)), start=1):  # noqa: B007
        _check_row(record)
    if num_rows == 0:
        raise InputError(f"{source}: the file has no rows")


def _check_row(record: Record) -> None:
    place = f"{record.source}:{record.row}"
    if record.broken is not None:
        raise InputError(f"{place}: {record.broken}")
    for name in ("answer", "response"):
        if name not in record.values:
            found = ", ".join(record.values) or "none"
            raise InputError(f"{place}: column '{name}' is missing; found {found}")
    answer, response = record.values["answer"], record.values["response"]
    if isinstance(answer, bool | dict | bytes):
        raise InputError(f"{place}: column 'answer' must hold text or numbers, not {type(answer).__name__}")
    if not isinstance(response, str | None):
        raise InputError(f"{place}: column 'response' must hold text, not {type(response).__name__}")


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
