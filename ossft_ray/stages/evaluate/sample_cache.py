"""Has another run drawn these samples already? A folder of whole benchmarks' samples that runs share.

An entry is one file, so it is there whole or not at all. Its name is the fingerprint of all that its rows depend on:
the evaluation's inputs, the benchmark with its problems, the chat template's text, and the code that grades. It carries
these inputs with it, and is used only where they and its rows are what is asked for. A model of the Hub takes part only
where its commit is known, for what its branch names may change.
"""

import hashlib
import json
import os
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa

import ossft_ray
from ossft_ray.common.schema import SAMPLE_SCHEMA
from ossft_ray.common.storage import Folder
from ossft_ray.common.types import Problem
from ossft_ray.policy.chat import Chat
from ossft_ray.run_folder.names import EVALUATE
from ossft_ray.run_folder.stage_folder import fingerprint

VARIABLE = "OSSFT_CACHE"
_KEY = b"ossft_inputs"
Say = Callable[[str], None]


def cache_folder(setting: str) -> Folder | None:
    """The folder that `[evaluate] cache` means; None for none."""
    root = os.environ.get(VARIABLE, "~/.cache/ossft_ray") if setting == "auto" else setting
    return Folder.at(root) / EVALUATE if root else None


def entry_inputs(
    inputs: dict[str, Any], benchmark: str, problems_digest: str, chat: Chat, is_hub_model: bool
) -> dict[str, Any] | None:
    """What the samples of one model on one benchmark depend on; None where that cannot be told."""
    if is_hub_model and chat.commit is None:
        return None
    template = hashlib.sha256(str(chat.tokenizer.chat_template).encode()).hexdigest()
    return {
        "evaluate": inputs,
        "benchmark": {"name": benchmark, "problems": problems_digest},
        "model": {"commit": chat.commit, "chat_template": template},
        "grader": _grader(),
    }


def find(
    folder: Folder, inputs: dict[str, Any], problems: list[Problem], num_samples: int, say: Say
) -> pa.Table | None:
    """All samples of a benchmark, as SAMPLE rows by problem and index; None where there are none that can be used."""
    name = _file(inputs)
    try:
        if not folder.exists(name):
            return None
        table = folder.read_table(name)
    except (OSError, pa.ArrowException) as error:
        say(f"{folder.path}/{name} cannot be read and is not used: {str(error).splitlines()[0]}")
        return None
    recorded = json.loads((table.schema.metadata or {}).get(_KEY, b"null"))
    rows = [(problem.problem_id, index) for problem in problems for index in range(num_samples)]
    fits = recorded == json.loads(json.dumps(inputs)) and table.schema.remove_metadata() == SAMPLE_SCHEMA
    if not fits or list(zip(*(table[key].to_pylist() for key in ("problem_id", "index")), strict=True)) != rows:
        say(f"{folder.path}/{name} does not hold what its name says and is not used")
        return None
    return table.replace_schema_metadata(None)


def keep(folder: Folder, inputs: dict[str, Any], samples: pa.Table, say: Say, replace: bool = False) -> None:
    """Store all samples of a benchmark for other runs; a folder that cannot be written to is no failure."""
    name = _file(inputs)
    try:
        if replace or not folder.exists(name):
            folder.write_table(name, samples.replace_schema_metadata({_KEY: json.dumps(inputs).encode()}))
    except OSError as error:
        say(f"{folder.path} cannot be written to, so other runs must sample anew: {error.strerror or error}")


def _file(inputs: dict[str, Any]) -> str:
    return f"{fingerprint(inputs)}.parquet"


@cache
def _grader() -> str:
    """Of the code that decides verdicts, ours and the libraries'."""
    digest = hashlib.sha256()
    package = Path(ossft_ray.__file__).parent
    shared = [package / "common" / name for name in ("latex.py", "verdict.py")]
    for file in sorted([*(package / "verification").rglob("*.py"), *shared]):
        digest.update(f"{file.relative_to(package)}\n".encode() + file.read_bytes())
    libraries = [f"{name} {metadata.version(name)}" for name in ("math-verify", "latex2sympy2-extended", "sympy")]
    return f"{digest.hexdigest()[:16]} {', '.join(libraries)}"
