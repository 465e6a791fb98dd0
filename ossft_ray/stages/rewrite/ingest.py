"""Rewriting's input: laid out in parts on the run's storage, once, and added to when the input grows.

The input is streamed, so it may be of any size. Workers anywhere can read their parts, and a killed run finds the same
parts again. Rows that cannot be used go to `rejected-*.parquet` with the reason, usable ones that one may want to look
at (a repeated question, an overlap with a benchmark) also to `flagged-*.parquet`.

`problems.json` is written last and says how many parts count: whatever a kill leaves beside them is written over.
"""

import tempfile
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any

from ossft_ray.common.errors import InputError
from ossft_ray.common.schema import PROBLEM_SCHEMA, REJECTED_SCHEMA, to_table
from ossft_ray.common.storage import Folder, PartWriter
from ossft_ray.common.types import Problem
from ossft_ray.config import Experiment
from ossft_ray.data.contamination import benchmark_digests
from ossft_ray.data.gold_check import gold_pool
from ossft_ray.data.problems import Rejection, noted_row, source_digests
from ossft_ray.data.screening import InputCounts, screen_problems
from ossft_ray.data.seen_problems import ProblemIndex
from ossft_ray.policy.chat import Chat
from ossft_ray.run_folder.names import BEFORE, INPUT_MANIFEST, MANIFEST, PARTS, PROBLEMS
from ossft_ray.run_folder.parts import move_part
from ossft_ray.run_folder.stage_folder import fingerprint
from ossft_ray.verification.fingerprint import verify_inputs

_NOTED = ("rejected", "flagged")
_NOTED_ROWS = 1000  # in a file
_GROWING = ((16, 2048), (32, 3072), (64, 4096))  # problems in a part, for parts below this number


@dataclass(frozen=True)
class Layout:
    """The input as it was laid out, kept as `problems.json`."""

    problems: int
    rejected: int
    rejected_reasons: dict[str, int]  # by the reason's first word
    duplicates: int  # questions that came before, kept or dropped
    contamination: dict[str, int]  # problems that overlap with a benchmark, kept or dropped, by benchmark
    not_checked: list[str]  # benchmarks that could not be compared with
    num_parts: int
    sources: str  # digest of what it was made from
    golds: dict[str, int] = field(default_factory=dict)  # gold answers by what was found of them
    bad_golds: list[dict[str, Any]] = field(default_factory=list)


def part_capacity(number: int) -> int:
    """How many problems a part holds: about a thousandth of all before it, 16 to 128.

    A part is what one policy takes and no other can help with, so it must be small beside a policy's share of the
    whole; a large run's are larger, so that files stay few.
    """
    return next((size for size, end in _GROWING if number < end), 128)


def part_names(layout: Layout) -> list[str]:
    """The names of the layout's parts, in `problems/` as in the folder itself."""
    return [_part_name(number) for number in range(layout.num_parts)]


def lay_out_problems(experiment: Experiment, chat: Chat, folder: Folder) -> Layout:
    """Stream the input into parts of problems, and set aside the rows that cannot be used.

    Where `folder` holds a layout of the same sources, that is it. Where it holds one of others, the problems in it stay
    where they are, with corrected answers and expert solutions where these changed, and new ones follow in new parts.

    Raises:
        InputError: a file cannot be used; no usable problem is left, then the folder is as if never begun; or a problem
            that is laid out asks something else or is gone, then the layout stays as it was.
    """
    before = Layout(**folder.read_json(INPUT_MANIFEST)) if folder.exists(INPUT_MANIFEST) else None
    sources = _sources_digest(experiment)
    if before is not None and before.sources == sources:
        return before
    try:
        layout = _lay_out(experiment, chat, folder, before, sources)
    except InputError:
        if before is None:
            folder.delete()
        raise
    folder.write_json(INPUT_MANIFEST, asdict(layout))
    return layout


def _lay_out(experiment: Experiment, chat: Chat, folder: Folder, before: Layout | None, sources: str) -> Layout:
    tally = InputCounts()
    with (
        closing(ProblemIndex()) as seen,
        tempfile.TemporaryDirectory(prefix="ossft-intake-") as spool,
        gold_pool(experiment) as pool,
    ):
        # What is noted is spooled until all is read: if the input is refused, the files of before stay.
        writers = [PartWriter(Folder.at(spool), prefix, REJECTED_SCHEMA, _NOTED_ROWS) for prefix in _NOTED]
        rejected, flagged = writers
        corrected: dict[str, Problem] = {}
        problems = _ProblemWriter(folder / PROBLEMS, before.num_parts if before else 0)
        for name in part_names(before) if before else []:
            for row in (folder / PROBLEMS).read_table(name).to_pylist():
                seen.add_existing(Problem(**row))
        for item in screen_problems(experiment, chat, seen, tally, pool):
            if isinstance(item, Rejection):
                rejected.write(item.as_row())
                continue
            for note in item.notes:
                flagged.write(noted_row(item.record, note, item.problem.problem_id))
            if item.status == "new":
                problems.write(vars(item.problem))
            elif item.status == "corrected":
                corrected[item.problem.problem_id] = item.problem
        if (missing := seen.first_missing()) is not None:
            raise InputError(
                f"[data] path: problem '{missing}', which {folder.path} holds, is gone from {experiment.data.path}; "
                "problems can only be added: choose another [run] output, or pass --start-over"
            )
        problems.flush()
        _correct(folder, corrected)
        for writer in writers:
            writer.flush()
            _replace_files(folder, writer)
    return Layout(
        problems=tally.problems,
        rejected=rejected.num_rows,
        rejected_reasons=dict(tally.rejected),
        duplicates=tally.duplicates,
        contamination=tally.contamination,
        not_checked=tally.not_checked,
        num_parts=problems.number,
        sources=sources,
        golds=dict(tally.gold_findings),
        bad_golds=tally.bad_golds,
    )


def _correct(folder: Folder, corrected: dict[str, Problem]) -> None:
    """Give problems that are laid out another gold. Finished parts that hold one are put aside, to be made again from.

    In this order: killed at any moment, the same command finds what is left to do.
    """
    for name in (folder / PROBLEMS).names(PARTS) if corrected else []:
        rows = (folder / PROBLEMS).read_table(name).to_pylist()
        if not any(row["problem_id"] in corrected for row in rows):
            continue
        if folder.exists(MANIFEST):
            folder.delete_file(MANIFEST)
        if folder.exists(name):
            move_part(folder, name, folder / BEFORE)
        rows = [vars(corrected[row["problem_id"]]) if row["problem_id"] in corrected else row for row in rows]
        (folder / PROBLEMS).write_table(name, to_table(rows, PROBLEM_SCHEMA))


class _ProblemWriter:
    """Writes problems as parts from number `number` on, each as large as `part_capacity` says."""

    def __init__(self, folder: Folder, number: int) -> None:
        self.folder, self.number = folder, number
        self._waiting: list[dict[str, Any]] = []

    def write(self, row: dict[str, Any]) -> None:
        self._waiting.append(row)
        if len(self._waiting) == part_capacity(self.number):
            self.flush()

    def flush(self) -> None:
        if self._waiting:
            self.folder.write_table(_part_name(self.number), to_table(self._waiting, PROBLEM_SCHEMA))
            self.number, self._waiting = self.number + 1, []


def _part_name(number: int) -> str:
    return f"part-{number:05d}.parquet"


def _sources_digest(experiment: Experiment) -> str:
    """Of all that says which rows become problems, but for the policy: only a run of one policy lies in a folder."""
    data = experiment.data
    inputs = {
        "data": data.model_dump(mode="json", exclude={"path"}),
        "sources": source_digests(data),
        "benchmarks": benchmark_digests(data, experiment.evaluate),
        "verify": verify_inputs(experiment.verify),
    }
    return fingerprint(inputs)


def _replace_files(folder: Folder, writer: PartWriter) -> None:
    """Move a writer's files into `folder`, in place of all that have their prefix."""
    old, new = (place.names(f"{writer.prefix}-*.parquet") for place in (folder, writer.folder))
    for name in new:
        folder.write_bytes(name, writer.folder.read_bytes(name))
    for name in set(old) - set(new):
        folder.filesystem.delete_file(f"{folder.path}/{name}")
