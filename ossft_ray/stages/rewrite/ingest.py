"""Ingestion: read the input once, and again when it grows, and shard it into parts on the run's storage.

The input is streamed, so it may be of any size. Workers on any node can read their parts, and a killed run finds the
same parts again. Unusable rows go to `rejected-*.parquet` with the reason; usable rows worth a look (a repeated
question, an overlap with a benchmark) go to `flagged-*.parquet` as well.

`problems.json` is written last and says how many parts count. Parts beyond it were left by a kill and are overwritten.
"""

import tempfile
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any

from ossft_ray.common.errors import InputError
from ossft_ray.common.schema import PROBLEM_SCHEMA, REJECTED_SCHEMA, to_table
from ossft_ray.common.storage import Folder, PartWriter
from ossft_ray.common.types import Problem
from ossft_ray.data.gold_check import gold_pool
from ossft_ray.data.problem_index import ProblemIndex
from ossft_ray.data.problems import Rejection, noted_row
from ossft_ray.data.screening import InputCounts, screen_problems
from ossft_ray.run_folder.names import BEFORE, INPUT_MANIFEST, MANIFEST, PARTS, PROBLEMS, part_name
from ossft_ray.run_folder.parts import move_part
from ossft_ray.run_folder.resolved_run import Run, num_bytes
from ossft_ray.run_folder.stage_folder import fingerprint
from ossft_ray.verification.fingerprint import verify_inputs

_NOTED_ROWS = 1000  # in a file
_PART_SIZES = ((16, 2048), (32, 3072), (64, 4096))  # problems in a part, for parts below this number


@dataclass(frozen=True)
class InputManifest:
    """The figures of the sharded input, stored as `problems.json`."""

    problems: int
    rejected: int
    rejected_reasons: dict[str, int]  # by the reason's first word
    duplicates: int  # repeated questions, kept or dropped
    contamination: dict[str, int]  # problems that overlap with a benchmark, kept or dropped, by benchmark
    not_checked: list[str]  # benchmarks that could not be compared with
    num_parts: int
    sources: str  # digest of the input and of all settings that decide which rows become problems
    golds: dict[str, int] = field(default_factory=dict)  # gold answers by what their check found
    bad_golds: list[dict[str, Any]] = field(default_factory=list)
    longest_problem: int = 0  # its `num_bytes`; 0: unknown

    @property
    def part_names(self) -> list[str]:
        """The names of the parts, in `problems/` and in the stage's folder alike."""
        return [part_name(number) for number in range(self.num_parts)]


def part_capacity(number: int) -> int:
    """How many problems part `number` holds: 16 to 128, about a thousandth of all problems in the parts before it.

    Policies cannot share the work on a part, so a part must be small compared with a policy's share of all problems.
    Later parts of a large run are larger, so that it has fewer files.
    """
    return next((size for size, end in _PART_SIZES if number < end), 128)


def shard_input(run: Run, folder: Folder) -> InputManifest:
    """Stream the input into parts of problems and set unusable rows aside.

    If `folder` holds the same input already, nothing is read. If it holds an earlier input, its problems stay where
    they are, with corrected answers and expert solutions where these changed, and new problems follow in new parts.

    Raises:
        InputError: a file cannot be used; no usable problem is left, in which case the folder is removed if it is new;
            or a problem that the folder holds is gone or asks another question, in which case the folder is unchanged.
    """
    earlier = InputManifest(**folder.read_json(INPUT_MANIFEST)) if folder.exists(INPUT_MANIFEST) else None
    sources = _sources_digest(run)
    if earlier is not None and earlier.sources == sources:
        return earlier
    try:
        manifest = _read_input(run, folder, earlier, sources)
    except InputError:
        if earlier is None:
            folder.delete()
        raise
    folder.write_json(INPUT_MANIFEST, asdict(manifest))
    return manifest


def _read_input(run: Run, folder: Folder, earlier: InputManifest | None, sources: str) -> InputManifest:
    experiment, counts = run.experiment, InputCounts()
    with (
        closing(ProblemIndex()) as seen,
        tempfile.TemporaryDirectory(prefix="ossft-ingest-") as spool,
        gold_pool(experiment) as pool,
    ):
        # Noted rows are spooled until all is read: if the input is refused, the files of the earlier input stay.
        rejected, flagged = writers = [
            PartWriter(Folder.at(spool), prefix, REJECTED_SCHEMA, lambda number: _NOTED_ROWS)
            for prefix in ("rejected", "flagged")
        ]
        corrected: dict[str, Problem] = {}
        longest = 0
        first_part = earlier.num_parts if earlier else 0
        problems = PartWriter(folder / PROBLEMS, "part", PROBLEM_SCHEMA, part_capacity, first_part)
        for name in earlier.part_names if earlier else []:
            for row in (folder / PROBLEMS).read_table(name).to_pylist():
                seen.add_existing(Problem(**row))
        for item in screen_problems(experiment, run.chat, seen, counts, pool):
            if isinstance(item, Rejection):
                rejected.write(noted_row(item.record, item.reason, item.problem_id))
                continue
            for note in item.notes:
                flagged.write(noted_row(item.record, note, item.problem.problem_id))
            longest = max(longest, num_bytes(item.problem))
            if item.status == "new":
                problems.write(vars(item.problem))
            elif item.status == "corrected":
                corrected[item.problem.problem_id] = item.problem
        if (missing := seen.first_missing()) is not None:
            raise InputError(
                f"[data] path: problem '{missing}' of {folder.path} is missing from {experiment.data.path}; "
                "problems can only be added: choose another [run] output, or pass --start-over"
            )
        problems.flush()
        _correct_problems(folder, corrected)
        for writer in writers:
            writer.flush()
            _replace_files(folder, writer)
    return InputManifest(
        problems=counts.problems,
        rejected=rejected.num_rows,
        rejected_reasons=dict(counts.rejected),
        duplicates=counts.duplicates,
        contamination=counts.contamination,
        not_checked=counts.not_checked,
        num_parts=problems.number,
        sources=sources,
        golds=dict(counts.gold_findings),
        bad_golds=counts.bad_golds,
        longest_problem=longest,
    )


def _correct_problems(folder: Folder, corrected: dict[str, Problem]) -> None:
    """Replace corrected problems in their parts, and move finished parts that hold one to `before/`, to be updated.

    The order of the writes matters: after a kill at any moment the same command finds what is left to do.
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


def _sources_digest(run: Run) -> str:
    """A digest of the input and of all settings that decide which rows become problems.

    The policy is not part of it, because a run's folder belongs to one policy.
    """
    return fingerprint(
        {
            "data": run.experiment.data.model_dump(mode="json", exclude={"path", "max_broken"}),
            "sources": run.source_digests,
            "benchmarks": run.benchmark_digests,
            "verify": verify_inputs(run.experiment),
        }
    )


def _replace_files(folder: Folder, writer: PartWriter) -> None:
    """Move a writer's files into `folder`, in place of all files with their prefix."""
    old, new = (place.names(f"{writer.prefix}-*.parquet") for place in (folder, writer.folder))
    for name in new:
        folder.write_bytes(name, writer.folder.read_bytes(name))
    for name in set(old) - set(new):
        folder.delete_file(name)
