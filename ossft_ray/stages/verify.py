"""`ossft verify`: grade the rows {answer, response} of a JSON or Parquet file.

The file is streamed twice: first to report any error in it before time is spent on grading, then to grade it. A row
without a response gets the reason `no_answer`, and one without an answer `no_gold`. A row may have a `question`, which
some kinds of verification read, and name its own `verifier`.
"""

import contextlib
import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ossft_ray.common.errors import InputError, brief
from ossft_ray.common.verdict import CORRECT, MEMORY, TIMEOUT
from ossft_ray.config import Policy, Verify
from ossft_ray.data.chats import UnusableRow, message_text, read_turns
from ossft_ray.data.layouts import answer_of_cell
from ossft_ray.data.records import JSONL_SUFFIXES, PARQUET_SUFFIXES, Record, is_known_kind, read_records
from ossft_ray.stages.agreement import Agreement, read_label
from ossft_ray.stages.judging import JudgingPool
from ossft_ray.verification import Task, VerifierPool
from ossft_ray.verification.answers import answer_text
from ossft_ray.verification.kinds import kinds
from ossft_ray.verification.kinds.judge import KIND as JUDGE

BATCH_ROWS = 1024
VERDICT_SCHEMA = pa.schema([("correct", pa.bool_()), ("reason", pa.string()), ("extracted", pa.string())])
_REPORT_SECONDS = 0.2
Row = dict[str, Any]


@dataclass(frozen=True)
class FileColumns:
    """The names of a file's columns. The file may lack `question` and `verifier`."""

    answer: str = "answer"
    response: str = "response"
    question: str = "question"
    verifier: str = "verifier"
    label: str = ""  # whether a response is right, to compare verdicts with; empty for none


@dataclass(frozen=True)
class GradedRow:
    """A graded row as it is shown."""

    number: int  # in the file, counted from 1; blank lines do not count
    reason: str
    answer: str
    extracted: str | None
    response: str | None


@dataclass(frozen=True)
class VerifySummary:
    """The result of grading a file. `reasons` counts the rows by reason, in descending order."""

    output: Path
    num_rows: int
    num_correct: int
    reasons: dict[str, int]
    seconds: float
    only: tuple[str, ...] = ()  # the reasons of the rows that were written; empty for all rows
    shown: list[GradedRow] = field(default_factory=list)
    agreement: Agreement | None = None  # with the labels, if there are any

    @property
    def num_written(self) -> int:
        """Number of rows in the output."""
        return sum(self.reasons.get(reason, 0) for reason in self.only) if self.only else self.num_rows

    @property
    def accuracy(self) -> float:
        """Share of the rows that are correct, 0..1."""
        return self.num_correct / self.num_rows

    @property
    def num_over_limits(self) -> int:
        """Number of rows whose grading exceeded the limit on time or memory."""
        return self.reasons.get(TIMEOUT, 0) + self.reasons.get(MEMORY, 0)

    @property
    def verdicts_per_second(self) -> float:
        return self.num_rows / self.seconds


def verify_file(
    path: str | Path,
    output: str | Path | None = None,
    verify: Verify | None = None,
    columns: FileColumns | None = None,
    on_progress: Callable[[dict[str, Any]], None] = lambda progress: None,
    *,
    overwrite: bool = False,
    only: Collection[str] = (),
    num_shown: int = 0,
    policy: Policy | None = None,
) -> VerifySummary:
    """Grade each row of a file and write the rows with `correct`, `reason` and `extracted` to `output`.

    Args:
        path: a JSON or Parquet file, as `rewrite` reads it. Each row has an answer (text, a number, or a list of them)
            and a response (text, or a chat whose last message counts).
        output: a JSONL or Parquet file, by its suffix (`.gz` and `.zst` compress JSONL); by default, the
            input's name with `.verified` before the suffix. It appears when it is complete.
        overwrite: whether the output may replace a file.
        only: write and show only rows with these reasons; empty: all rows.
        num_shown: how many of the first rows the summary holds.
        verify: the kind of verification, its settings and its limits.
        columns: the names of the file's columns.
        policy: the judge, for the kind `judge`.
        on_progress: called from time to time and at the end, with `total`, `rows`, `correct` and `seconds`.

    Raises:
        InputError: the file, one of its rows, the output's name or the verifier cannot be used.
        JobError: no worker can be started.
    """
    verify, columns = verify or Verify(), columns or FileColumns()
    source = Path(path)
    target = _verified_name(source) if output is None else Path(output)
    for name in (source, target):
        if not is_known_kind(str(name)):
            raise InputError(f"{name}: unknown kind of file; give .jsonl or .parquet")
    if not source.is_file():
        raise InputError(f"{source}: no such file")
    if target.exists() and not overwrite:
        raise InputError(f"{target}: exists already; give another --output, or --overwrite to replace it")
    num_rows = _check_rows(source, columns)
    schema = _schema_with_verdicts(source) if target.suffix in PARQUET_SUFFIXES else None
    started = reported = time.monotonic()
    reasons: Counter[str] = Counter()
    only = tuple(dict.fromkeys(only))
    shown: list[GradedRow] = []
    labelled: Counter[tuple[bool, bool]] = Counter()

    def graded_rows() -> Iterator[Row]:
        nonlocal reported
        rows = (record.values for record in read_records(str(source)))
        for row, (verdict,) in pool.map_each(rows, lambda row: [_task(row, columns, verify.kind)]):
            reasons[verdict.reason] += 1
            if (label := _label(row, columns)) is not None:
                labelled[label, verdict.correct] += 1
            if not only or verdict.reason in only:
                if len(shown) < num_shown:
                    task = _task(row, columns, verify.kind)
                    shown.append(
                        GradedRow(reasons.total(), verdict.reason, task.answer, verdict.extracted, task.response or "")
                    )
                yield row | {"correct": verdict.correct, "reason": verdict.reason, "extracted": verdict.extracted}
            now = time.monotonic()
            if reasons.total() == num_rows or now - reported > _REPORT_SECONDS:
                reported = now
                totals = {"total": num_rows, "rows": reasons.total(), "correct": reasons[CORRECT]}
                on_progress(totals | {"seconds": now - started})

    with JudgingPool(verify, policy) if verify.kind == JUDGE else VerifierPool(verify) as pool:
        _write(graded_rows(), target, schema)
    seconds = time.monotonic() - started
    by_reason, agreement = dict(reasons.most_common()), Agreement(labelled) if labelled else None
    return VerifySummary(target, num_rows, reasons[CORRECT], by_reason, seconds, only, shown, agreement)


def _task(row: Row, columns: FileColumns, kind: str) -> Task:
    verifier = answer_text(row.get(columns.verifier))
    answer = answer_of_cell(row[columns.answer], verifier or kind)
    question = row.get(columns.question)
    response = _response_text(row[columns.response]) or ""
    return Task(answer, response, question if isinstance(question, str) else "", verifier)


def _label(row: Row, columns: FileColumns) -> bool | None:
    return read_label(row.get(columns.label)) if columns.label else None


def _response_text(value: Any) -> str | None:
    """The text of a response, or of the last message of a chat; None for any other value."""
    if value is None or isinstance(value, str):
        return value or ""
    try:
        turns = read_turns(value)
        return turns[-1].text if turns else message_text(value)
    except UnusableRow:
        return None


def _verified_name(source: Path) -> Path:
    """The name with `.verified` before the suffix; `.jsonl.gz` is one suffix."""
    suffix = max((suffix for suffix in JSONL_SUFFIXES if source.name.endswith(suffix)), key=len, default=source.suffix)
    return source.with_name(f"{source.name.removesuffix(suffix)}.verified{suffix}")


def _check_rows(source: Path, columns: FileColumns) -> int:
    """Check that every row can be graded, and return the number of rows."""
    num_rows = 0
    for record in read_records(str(source)):
        _check_row(record, columns)
        num_rows += 1
    if num_rows == 0:
        raise InputError(f"{source}: the file has no rows")
    return num_rows


def _check_row(record: Record, columns: FileColumns) -> None:
    place = f"{record.source}:{record.row}"
    if record.broken is not None:
        raise InputError(f"{place}: {record.broken}")
    for role in ("answer", "response", *(["label"] if columns.label else [])):
        if (name := getattr(columns, role)) not in record.values:
            found = ", ".join(record.values) or "none"
            raise InputError(f"{place}: column '{name}' is missing; found {found}; name it with --{role}-column")
    answer, response = record.values[columns.answer], record.values[columns.response]
    if isinstance(answer, bool | dict | bytes):
        raise InputError(f"{place}: column '{columns.answer}' must hold text or numbers, not {type(answer).__name__}")
    if _response_text(response) is None:
        raise InputError(f"{place}: column '{columns.response}' must hold text, not {type(response).__name__}")
    try:
        _label(record.values, columns)
    except ValueError as error:
        raise InputError(f"{place}: column '{columns.label}': {error}") from error
    verifier = answer_text(record.values.get(columns.verifier))
    if verifier and verifier not in kinds():
        raise InputError(f"{place}: no verification kind '{verifier}'; kinds: {', '.join(kinds())}")


def _batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while batch := list(itertools.islice(rows, BATCH_ROWS)):
        yield batch


def _schema_with_verdicts(source: Path) -> pa.Schema:
    """The schema of all rows, with the verdict's columns instead of those of an earlier grading."""
    if source.suffix in PARQUET_SUFFIXES:
        schema = pq.read_schema(source).remove_metadata()
    else:
        schema = pa.schema([])
        try:
            for batch in _batches(record.values for record in read_records(str(source))):
                names = dict.fromkeys(name for row in batch for name in row)
                fields = [pa.field(name, pa.array([row.get(name) for row in batch]).type) for name in names]
                schema = pa.unify_schemas([schema, pa.schema(fields)], promote_options="permissive")
        except (pa.ArrowException, UnicodeEncodeError, OverflowError) as error:
            raise InputError(f"{source}: its rows do not fit Parquet columns ({brief(error)}); write .jsonl") from error
    kept = [field for field in schema if field.name not in VERDICT_SCHEMA.names]
    return pa.schema([*kept, *VERDICT_SCHEMA])


def _write(rows: Iterator[Row], target: Path, schema: pa.Schema | None) -> None:
    """Write rows to a file that appears when it is complete: Parquet if a schema is given, otherwise JSONL."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    compression = {".gz": "gzip", ".zst": "zstd"}.get(target.suffix)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            if schema is not None:
                with pq.ParquetWriter(file, schema, compression="zstd") as writer:
                    for batch in _batches(rows):
                        writer.write_table(pa.Table.from_pylist(batch, schema=schema))
            else:
                with pa.output_stream(file, compression=compression) as stream:
                    for row in rows:
                        line = json.dumps(row, ensure_ascii=False, default=str) + "\n"
                        # JSON escapes half of a surrogate pair in the same way as backslashreplace.
                        stream.write(line.encode("utf-8", errors="backslashreplace"))
        os.replace(temporary, target)
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {error.strerror or brief(error)}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
