"""Reading a run's folder. The run may be under way, and any of its files may not be there yet."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import count, takewhile
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs
from pydantic import ValidationError

from ossft_ray.common.errors import InputError, brief
from ossft_ray.common.schema import ATTEMPT_FIGURES_SCHEMA, check_table
from ossft_ray.common.storage import Folder
from ossft_ray.common.types import count_origins
from ossft_ray.config import Experiment, Policy
from ossft_ray.method.suspects import Suspects, rank_suspects
from ossft_ray.run_folder import names
from ossft_ray.run_folder.metrics_log import read_metrics
from ossft_ray.run_folder.parts import counts_of_parts

Json = dict[str, Any]


def _json_file(path: str) -> cached_property[Json]:
    """A property of a run: a JSON file at `path` in its folder."""
    return cached_property(lambda run: read_json(run.folder, path))


@dataclass(frozen=True)
class RunFolder:
    """One round of a run. Files are read at first use; a missing one is empty."""

    name: str  # the run as its user wrote it, with the number of a later round
    folder: Folder

    config = _json_file(names.CONFIG)
    input_manifest = _json_file(f"{names.REWRITE}/{names.INPUT_MANIFEST}")  # written once the input is read
    rewrite_manifest = _json_file(f"{names.REWRITE}/{names.MANIFEST}")
    score_manifest = _json_file(f"{names.SCORE}/{names.MANIFEST}")
    train_manifest = _json_file(f"{names.TRAIN}/{names.MANIFEST}")
    evaluation_costs = _json_file(f"{names.EVALUATE}/{names.COSTS}")
    accuracies = _json_file(f"{names.EVALUATE}/{names.ACCURACIES}")  # by model and benchmark
    differences = _json_file(f"{names.EVALUATE}/{names.DIFFERENCES}")  # of models from the base model, by benchmark

    @property
    def experiment(self) -> Json:
        """The resolved experiment of `config.json`."""
        found: Json = self.config.get("experiment", {})
        return found

    @property
    def policy(self) -> Policy | None:
        """`[policy]` of the experiment; None if config.json is missing or not ours."""
        try:
            return Policy.model_validate(self.experiment.get("policy"))
        except ValidationError:
            return None

    @property
    def examples_elsewhere(self) -> str | None:
        """The rewrite folder of another run, if this run trains on it."""
        found: str | None = self.experiment.get("train", {}).get("examples")
        return found

    @property
    def rewrite(self) -> Folder:
        return self.folder / names.REWRITE

    @cached_property
    def metrics(self) -> list[Json]:
        """The metrics of each training step."""
        return read_metrics(self.folder / names.TRAIN)

    @cached_property
    def part_counts(self) -> list[Json]:
        """The counts of each part of the rewriting so far."""
        return counts_of_parts(self.rewrite)

    @cached_property
    def rewrite_counts(self) -> Json:
        """`origins`, `dropped`, `attempts`, `generated_tokens`, `reasons`: of the manifest, or of the parts so far."""
        if self.rewrite_manifest:
            return self.rewrite_manifest
        totals: Counter[str] = Counter()
        reasons: dict[str, Counter[str]] = {}
        for counts in self.part_counts:
            totals.update({name: number for name, number in counts.items() if isinstance(number, int)})
            for stage, by_reason in counts.get("reasons", {}).items():
                reasons.setdefault(stage, Counter()).update(by_reason)
        return {
            "origins": count_origins(totals),
            **{name: totals[name] for name in ("dropped", "copied", "attempts", "generated_tokens")},
            "reasons": {stage: dict(by_reason.most_common()) for stage, by_reason in reasons.items()},
        }

    def progress(self) -> tuple[int, int | None]:
        """Problems that are done, and usable problems of the input; None for the latter until it has been read."""
        if self.rewrite_manifest:
            return self.rewrite_manifest["problems"], self.rewrite_manifest["problems"]
        done = sum(self.rewrite_counts["origins"].values()) + self.rewrite_counts["dropped"]
        return done, self.input_manifest.get("problems")

    def tables(self, schema: pa.Schema, pattern: str = names.PARTS) -> Iterator[pa.Table]:
        """The parts of the rewriting so far, one by one, with the columns of `schema`.

        Raises:
            InputError: a part cannot be read, or lacks a column.
        """
        for name in self.rewrite.names(pattern):
            try:
                table = read_columns(self.rewrite, name, schema)
            except FileNotFoundError:
                continue  # set aside in the meantime, because more samples are drawn
            yield table

    def attempts_by_problem(self) -> Iterator[tuple[str, list[Json]]]:
        """The id of each problem that is done, and the figures of its attempts. Rows of one problem count once.

        Raises:
            InputError: a part cannot be read, or lacks a column.
        """
        for pattern in (names.PARTS, names.DROPPED_PARTS):
            for table in self.tables(ATTEMPT_FIGURES_SCHEMA, pattern):
                yield from {row["problem_id"]: row["attempts"] or [] for row in table.to_pylist()}.items()

    @cached_property
    def suspects(self) -> Suspects:
        """The problems whose gold answer is suspect, the strongest evidence first.

        Raises:
            InputError: a part cannot be read, or lacks a column.
        """
        listings = [self.rewrite_manifest] if self.rewrite_manifest else self.part_counts
        suspects = [suspect for listing in listings for suspect in listing.get("suspects", [])]
        return rank_suspects(suspects, self.attempts_by_problem() if suspects else ())

    @cached_property
    def files(self) -> dict[str, list[fs.FileInfo]]:
        """All files in the folder of each stage; none for a stage that has not begun."""
        found = {}
        for stage in names.STAGES:
            selector = fs.FileSelector(f"{self.folder.path}/{stage}", allow_not_found=True, recursive=True)
            infos = self.folder.filesystem.get_file_info(selector)
            found[stage] = [info for info in infos if info.type == fs.FileType.File]
        return found

    @cached_property
    def evaluation_parts(self) -> dict[str, dict[str, Json]]:
        """For each model and benchmark: `problems`, `parts` and `parts_done`, also for models still to come."""
        prefix = f"{self.folder.path}/{names.EVALUATE}/"
        paths = [file.path.removeprefix(prefix).split("/") for file in self.files[names.EVALUATE]]
        done = Counter(tuple(path[:2]) for path in paths if len(path) == 3 and path[2].startswith("part-"))
        folder = self.folder / names.EVALUATE
        sizes = {path[0]: read_json(folder / path[0], names.SIZES) for path in paths if path[1:] == [names.SIZES]}
        usual: Json = next(iter(sizes.values()), {})  # for a model that has not begun
        return {
            model: {name: {**size, "parts_done": done[model, name]} for name, size in sizes.get(model, usual).items()}
            for model in dict.fromkeys([*self.evaluated_models, *sizes])
        }

    @property
    def evaluated_models(self) -> list[str]:
        """The models that `ossft evaluate` compares: base, trained if there is one, and the configured ones."""
        others = self.experiment.get("evaluate", {}).get("models", {})
        return [names.BASE, *([names.TRAINED] if self.train_manifest else []), *others]

    @property
    def is_empty(self) -> bool:
        """Whether no stage has written any rows or results."""
        written = (self.rewrite.names(names.PARTS), self.score_manifest, self.metrics, self.train_manifest)
        return not any((*written, self.rewrite_manifest, self.accuracies))


def open_rounds(uri: str) -> list[RunFolder]:
    """All rounds of the run in a folder, a local path or an object-store URI.

    Raises:
        InputError: the folder does not exist or cannot be read, or it holds no run.
    """
    folder, where = Folder.at(uri), "give a run's folder, its [run] output"
    with storage_errors(uri):
        if not folder.exists():
            raise InputError(f"{uri}: no such folder; {where}")
        first = RunFolder(uri, folder)
        if not first.experiment and not any((folder / stage).exists() for stage in names.STAGES):
            if folder.exists(names.INPUTS) or folder.exists(names.MANIFEST):
                where = "give the folder above this stage"
            raise InputError(f"{uri}: holds no run, neither an experiment's {names.CONFIG} nor a stage; {where}")
        later = takewhile(lambda number: (folder / names.round_name(number)).exists(), count(2))
        return [first, *(RunFolder(f"{uri}, round {number}", folder / names.round_name(number)) for number in later)]


def open_run(uri: str) -> RunFolder:
    """The run in a folder, for its examples; of several rounds, the first.

    Raises:
        InputError: as `open_rounds`, or no rewriting has begun.
    """
    run = open_rounds(uri)[0]
    if not run.rewrite.exists():
        raise InputError(f"{uri}: holds no {names.REWRITE}/, so no examples; run `ossft rewrite` first")
    return run


def examples_folder(experiment: Experiment) -> Folder:
    """The rewrite folder whose examples an experiment trains on.

    Raises:
        InputError: its rewriting is not complete.
    """
    uri = experiment.train.examples
    source = Folder.at(uri) if uri is not None else Folder.at(experiment.run.output) / names.REWRITE
    if not source.exists(names.MANIFEST):
        hint = "[train] examples must be a finished run's rewrite folder" if uri else "run `ossft rewrite` first"
        raise InputError(f"{source.path}: no complete examples (no {names.MANIFEST}); {hint}")
    return source


def read_json(folder: Folder, name: str) -> Json:
    """A JSON file of a run; empty if there is none.

    Raises:
        InputError: the file is not JSON.
    """
    if not folder.exists(name):
        return {}
    try:
        found: Json = folder.read_json(name)
    except ValueError as error:
        raise InputError(f"{folder.path}/{name}: not valid JSON: {error}; delete it and run its stage again") from error
    return found


def read_columns(folder: Folder, name: str, schema: pa.Schema) -> pa.Table:
    """Read the columns of `schema` from a Parquet file, and from a list of structs only the fields that `schema` names.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it cannot be read, or lacks a column.
    """
    source = f"{folder.path}/{name}"
    try:
        with folder.filesystem.open_input_file(source) as file:
            parquet = pq.ParquetFile(file)
            present = [field for field in schema if field.name in parquet.schema_arrow.names]
            table = parquet.read([path for field in present for path in _paths(field)])
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{source}: cannot be read: {brief(error)}") from error
    return check_table(table, schema, source)


def list_values(lists: pa.ChunkedArray) -> list[np.ndarray]:
    """The values of each list of a column, as views; the column has no nulls."""
    lengths = pc.list_value_length(lists).to_numpy()
    return np.split(pc.list_flatten(lists).to_numpy(), np.cumsum(lengths)[:-1]) if len(lengths) else []


def scored_responses(table: pa.Table, logprobs: str) -> Iterator[tuple[str, str, bool, np.ndarray]]:
    """Problem id, origin, whether it is the kept response, and log p, of the rows whose column `logprobs` is not null.

    `table` has SCORE columns; see `gap.ProblemGaps`.
    """
    rows = table.filter(pc.is_valid(table[logprobs]))
    fields = (
        rows["problem_id"].to_pylist(),
        rows["origin"].to_pylist(),
        pc.equal(rows["source"], names.KEPT).to_pylist(),
    )
    return zip(*fields, list_values(rows[logprobs]), strict=True)


def _paths(field: pa.Field) -> list[str]:
    """The paths of a column's leaves in Parquet, under the names that old and new writers give a list's items."""
    if not pa.types.is_list(field.type) or not pa.types.is_struct(field.type.value_type):
        return [field.name]
    names = [child.name for child in field.type.value_type]
    return [f"{field.name}.list.{item}.{name}" for item in ("element", "item") for name in names]


def columns(schema: pa.Schema, *column_names: str) -> pa.Schema:
    """Some columns of a schema."""
    return pa.schema([schema.field(name) for name in column_names])


@contextmanager
def storage_errors(uri: str) -> Iterator[None]:
    """Report a failure of the storage under a run as an InputError of one line."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{uri}: cannot be read: {brief(error)}") from error
