"""What is there of a run to report on? Settings, manifests, metrics and scores; stages may be missing or half done."""

import json
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ossft_ray.common.errors import InputError
from ossft_ray.common.schema import EXAMPLE_SCHEMA, check_table
from ossft_ray.common.storage import Folder, read_lines
from ossft_ray.run_folder.names import (
    ACCURACIES,
    CONFIG,
    COSTS,
    DIFFERENCES,
    EVALUATE,
    INPUT_MANIFEST,
    MANIFEST,
    METRICS,
    PARTS,
    REWRITE,
    SCORE,
    TRAIN,
    round_name,
)

_MAX_ROUNDS = 100


@dataclass(frozen=True)
class RunFiles:
    """One round of a run as it stands on its storage. What is not there is None, or empty."""

    name: str  # the run as its user wrote it, with the round where there is more than one
    folder: Folder
    config: dict[str, Any] = field(default_factory=dict)
    rewriting: dict[str, Any] | None = None
    scoring: dict[str, Any] | None = None
    training: dict[str, Any] | None = None
    steps: list[dict[str, Any]] = field(default_factory=list)
    scores: dict[str, Any] | None = None
    differences: dict[str, Any] | None = None
    evaluation: dict[str, Any] | None = None  # what it cost

    @property
    def experiment(self) -> dict[str, Any]:
        """The resolved experiment of `config.json`; empty where there is none."""
        found: dict[str, Any] = self.config.get("experiment", {})
        return found

    @cached_property
    def origins(self) -> list[tuple[str, list[str], list[str]]]:
        """For each finished part of the rewriting: its name, and its rows' problem ids and origins."""
        folder, found = self.folder / REWRITE, []
        for name in folder.names(PARTS):
            rows = read_columns(folder, name, columns(EXAMPLE_SCHEMA, "problem_id", "origin")).to_pydict()
            found.append((name, rows["problem_id"], rows["origin"]))
        return found

    @cached_property
    def origin_counts(self) -> Counter[str]:
        """Problems by origin, of the manifest or, while it is not written, of the parts so far."""
        if self.rewriting:
            return Counter(self.rewriting["origins"])
        return Counter(dict(zip(ids, origins, strict=True))[i] for _, ids, origins in self.origins for i in set(ids))

    @cached_property
    def num_problems(self) -> int | None:
        """Usable problems of the input; None while it is still being read."""
        if self.rewriting:
            return int(self.rewriting["problems"])
        folder = self.folder / REWRITE
        return int(folder.read_json(INPUT_MANIFEST)["problems"]) if folder.exists(INPUT_MANIFEST) else None

    @property
    def unfinished(self) -> list[str]:
        """The stages that have begun and not ended."""
        began = {"rewrite": self.rewriting, "score": self.scoring, "train": self.training, "evaluate": self.scores}
        return [name for name, ended in began.items() if ended is None and (self.folder / name).exists()]

    @property
    def is_empty(self) -> bool:
        found = self.rewriting or self.scoring or self.training or self.scores or self.steps
        return not (found or (self.folder / REWRITE).names(PARTS))


def read_run(uri: str) -> list[RunFiles]:
    """All rounds of the run in a folder, a local path or an object-store URI: the first, then those in `round-N/`.

    Raises:
        InputError: there is no such folder, or a file in it is not what its name says.
    """
    folder = Folder.at(uri)
    try:
        if not folder.exists():
            raise InputError(f"{uri}: no such folder; give a run's folder, its [run] output")
        rounds = [folder]
        for number in range(2, _MAX_ROUNDS):
            if not (later := folder / round_name(number)).exists():
                break
            rounds.append(later)
        names = [uri, *(f"{uri}, round {number}" for number in range(2, len(rounds) + 1))]
        return [_read_round(name, each) for name, each in zip(names, rounds, strict=True)]
    except (OSError, ValueError) as error:
        raise InputError(f"{uri}: cannot be read: {str(error).splitlines()[0]}") from error


def read_columns(folder: Folder, name: str, schema: pa.Schema) -> pa.Table:
    """The columns of `schema` of a Parquet file, and no others.

    Raises:
        InputError: the file cannot be read, or lacks a column.
    """
    source = f"{folder.path}/{name}"
    try:
        with folder.filesystem.open_input_file(source) as file:
            parquet = pq.ParquetFile(file)
            present = [column for column in schema.names if column in parquet.schema_arrow.names]
            table = parquet.read(columns=present)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{source}: cannot be read: {str(error).splitlines()[0]}") from error
    return check_table(table, schema, source)


def columns(schema: pa.Schema, *names: str) -> pa.Schema:
    """A schema of only these columns."""
    return pa.schema([schema.field(name) for name in names])


def _read_round(name: str, folder: Folder) -> RunFiles:
    evaluate, train = folder / EVALUATE, folder / TRAIN
    return RunFiles(
        name=name,
        folder=folder,
        config=_json(folder, CONFIG) or {},
        rewriting=_json(folder / REWRITE, MANIFEST),
        scoring=_json(folder / SCORE, MANIFEST),
        training=_json(train, MANIFEST),
        steps=read_lines(train, METRICS) if train.exists(METRICS) else [],
        scores=_json(evaluate, ACCURACIES),
        differences=_json(evaluate, DIFFERENCES),
        evaluation=_json(evaluate, COSTS),
    )


def _json(folder: Folder, name: str) -> dict[str, Any] | None:
    if not folder.exists(name):
        return None
    try:
        found: dict[str, Any] = folder.read_json(name)
    except json.JSONDecodeError as error:
        raise InputError(f"{folder.path}/{name}: not valid JSON: {error}; make this stage anew") from error
    return found
