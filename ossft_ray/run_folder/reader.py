"""What does a run's folder hold? Its settings and its examples, also while rewriting is still under way."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from ossft_ray.common.errors import InputError
from ossft_ray.common.schema import check_table
from ossft_ray.common.storage import Folder
from ossft_ray.config import Experiment, Policy
from ossft_ray.run_folder.names import CONFIG, COUNTS, INPUT_MANIFEST, MANIFEST, PARTS, PROBLEMS, REWRITE


@dataclass(frozen=True)
class RunFolder:
    """A run as it stands on its storage."""

    uri: str  # as its user wrote it
    rewrite: Folder
    config: dict[str, Any]  # config.json; empty where there is none
    manifest: dict[str, Any] | None  # of the rewriting; None while it is not complete

    @property
    def experiment(self) -> dict[str, Any]:
        """The experiment as config.json holds it; empty where there is none."""
        found: dict[str, Any] = self.config.get("experiment", {})
        return found

    @property
    def policy(self) -> Policy | None:
        """`[policy]` of the experiment; None where config.json is missing or not ours."""
        try:
            return Policy.model_validate(self.experiment.get("policy"))
        except ValidationError:
            return None

    def parts(self, pattern: str = PARTS) -> list[str]:
        """The names of the finished parts, in the order of the problems."""
        return self.rewrite.names(pattern)

    def tables(self, schema: pa.Schema, pattern: str = PARTS) -> Iterator[pa.Table]:
        """The finished parts one by one, with the columns of `schema`.

        Raises:
            InputError: a part cannot be read, or lacks a column.
        """
        for name in self.parts(pattern):
            source = f"{self.rewrite.path}/{name}"
            try:
                table = self.rewrite.read_table(name)
            except FileNotFoundError:
                continue  # a run that goes on may make a part again
            except (OSError, pa.ArrowException) as error:
                raise InputError(f"{source}: cannot be read: {str(error).splitlines()[0]}") from error
            yield check_table(table, schema, source)

    def progress(self) -> tuple[int, int | None]:
        """Problems that are done, and problems in all; None for those while the input is still being read."""
        if self.manifest is not None and "problems" in self.manifest:
            return self.manifest["problems"], self.manifest["problems"]
        problems = self.rewrite / PROBLEMS
        laid_out = set(problems.names(PARTS))
        done = sum(_num_rows(problems, name) for name in self.parts() if name in laid_out)
        total = self.rewrite.read_json(INPUT_MANIFEST)["problems"] if self.rewrite.exists(INPUT_MANIFEST) else None
        return done, total


def open_run(uri: str) -> RunFolder:
    """The run in a folder: a local path or an object-store URI.

    Raises:
        InputError: there is no such folder, it cannot be read, or no rewriting has begun in it.
    """
    folder = Folder.at(uri)
    try:
        if not folder.exists():
            raise InputError(f"{uri}: no such folder; give a run's folder, its [run] output")
        rewrite = folder / REWRITE
        if not rewrite.exists():
            inside = folder.names(PARTS) or folder.exists(INPUT_MANIFEST)
            mend = "give the folder above it" if inside else "give a run's folder, its [run] output"
            raise InputError(f"{uri}: holds no {REWRITE}/, so no examples; {mend}")
        config = folder.read_json(CONFIG) if folder.exists(CONFIG) else {}
        manifest = rewrite.read_json(MANIFEST) if rewrite.exists(MANIFEST) else None
    except json.JSONDecodeError as error:
        raise InputError(f"{uri}: its {CONFIG} or {REWRITE}/{MANIFEST} is not valid JSON: {error}") from error
    except OSError as error:
        raise InputError(f"{uri}: cannot be read: {error.strerror or str(error).splitlines()[0]}") from error
    return RunFolder(uri, rewrite, config, manifest)


def read_counts(folder: Folder, part: str) -> dict[str, Any]:
    """What a part of examples or of scores was written with.

    Raises:
        InputError: it was written by somebody else.
    """
    metadata = folder.read_metadata(part)
    if COUNTS not in metadata:
        raise InputError(f"{folder.path}/{part}: its metadata lacks {COUNTS.decode()}; it is no part that ossft wrote")
    counts: dict[str, Any] = json.loads(metadata[COUNTS])
    return counts


def _num_rows(folder: Folder, name: str) -> int:
    with folder.filesystem.open_input_file(f"{folder.path}/{name}") as file:
        return int(pq.ParquetFile(file).metadata.num_rows)


def examples_folder(experiment: Experiment) -> Folder:
    """The rewrite folder whose examples are trained on, which must be complete.

    Raises:
        InputError: it is not; says how to make it.
    """
    uri = experiment.train.examples
    source = Folder.at(uri) if uri is not None else Folder.at(experiment.run.output) / REWRITE
    if not source.exists(MANIFEST):
        mend = "[train] examples must be a finished run's rewrite folder" if uri else "run `ossft rewrite` first"
        raise InputError(f"{source.path}: no complete examples (no {MANIFEST}); {mend}")
    return source
