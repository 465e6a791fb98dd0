"""A folder that runs share, with samples of whole benchmarks.

An entry is one file, so it is complete or absent. Its name is the fingerprint of everything that its rows depend on:
the evaluation's inputs, the benchmark's problems, the text of the chat template, and the code that grades. A Hub model
is cached only if its commit is known, because a branch may move to another commit.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa

import ossft_ray
from ossft_ray.common.errors import brief
from ossft_ray.common.schema import SAMPLE_SCHEMA
from ossft_ray.common.storage import Folder
from ossft_ray.common.types import Problem
from ossft_ray.config import Experiment
from ossft_ray.policy.chat import Chat
from ossft_ray.policy.model_location import model_path
from ossft_ray.run_folder.names import EVALUATE
from ossft_ray.run_folder.stage_folder import fingerprint

VARIABLE = "OSSFT_CACHE"


def cache_folder(setting: str) -> Folder | None:
    """The folder that `[evaluate] cache` names; None if caching is off."""
    root = os.environ.get(VARIABLE, "~/.cache/ossft_ray") if setting == "auto" else setting
    return Folder.at(root) / EVALUATE if root else None


@dataclass(frozen=True)
class SampleCache:
    """The cached samples of one model. `digest` arguments are those of `record_benchmarks`."""

    folder: Folder
    inputs: dict[str, Any]  # what the samples depend on, besides the benchmark
    notify: Callable[[str], None]

    @classmethod
    def open(
        cls, experiment: Experiment, chat: Chat, inputs: dict[str, Any], notify: Callable[[str], None]
    ) -> "SampleCache | None":
        """The cache of `[policy] model`; None if caching is off, or the model's commit is unknown."""
        folder = cache_folder(experiment.evaluate.cache)
        is_hub_model = not Path(model_path(experiment.policy.model)).is_dir()
        if folder is None or (is_hub_model and chat.commit is None):
            return None
        template = hashlib.sha256(str(chat.tokenizer.chat_template).encode()).hexdigest()
        model = {"commit": chat.commit, "chat_template": template}
        grader = {"grader": _grader(), "columns": SAMPLE_SCHEMA.names}
        return cls(folder, {"evaluate": inputs, "model": model, **grader}, notify)

    def load(self, benchmark: str, digest: str, problems: list[Problem], num_samples: int) -> pa.Table | None:
        """All samples of a benchmark as SAMPLE rows, by problem and index; None if there are no usable ones."""
        name = self._file(benchmark, digest)
        try:
            if not self.folder.exists(name):
                return None
            table = self.folder.read_table(name).replace_schema_metadata(None)
        except (OSError, pa.ArrowException) as error:
            self.notify(f"{self.folder.path}/{name} cannot be read and is not used: {brief(error)}")
            return None
        ids = [problem.problem_id for problem in problems for _ in range(num_samples)]
        wanted = {"problem_id": ids, "index": list(range(num_samples)) * len(problems)}
        if table.schema == SAMPLE_SCHEMA and table.select(list(wanted)).to_pydict() == wanted:
            return table
        self.notify(f"{self.folder.path}/{name} does not hold what its name says and is not used")
        return None

    def store(self, benchmark: str, digest: str, samples: pa.Table, replace: bool = False) -> None:
        """Store all samples of a benchmark for other runs. A cache that cannot be written to is not an error."""
        name = self._file(benchmark, digest)
        try:
            if replace or not self.folder.exists(name):
                self.folder.write_table(name, samples)
        except OSError as error:
            self.notify(f"{self.folder.path} cannot be written to, so other runs must sample again: {brief(error)}")

    def _file(self, benchmark: str, digest: str) -> str:
        return fingerprint({**self.inputs, "benchmark": {"name": benchmark, "problems": digest}}) + ".parquet"


@cache
def _grader() -> str:
    """A digest of the code that decides verdicts, and the versions of the libraries that it uses."""
    digest = hashlib.sha256()
    package = Path(ossft_ray.__file__).parent
    shared = [package / "common" / name for name in ("latex.py", "verdict.py")]
    for file in sorted([*(package / "verification").rglob("*.py"), *shared]):
        digest.update(f"{file.relative_to(package)}\n".encode() + file.read_bytes())
    libraries = [f"{name} {metadata.version(name)}" for name in ("math-verify", "latex2sympy2-extended", "sympy")]
    return f"{digest.hexdigest()[:16]} {', '.join(libraries)}"
