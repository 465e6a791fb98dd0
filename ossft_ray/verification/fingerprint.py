"""The verifier's part of a stage's fingerprint: the settings and the code that verdicts depend on."""

import hashlib
import importlib.util
import os
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from ossft_ray.config import Experiment
from ossft_ray.verification.kinds import check_kind, version_of


def verify_inputs(experiment: Experiment) -> dict[str, Any]:
    """The inputs that stored verdicts depend on: settings, a plug-in's version, a function's source.

    Raises:
        InputError: there is no such kind.
    """
    verify = experiment.verify
    inputs: dict[str, Any] = verify.model_dump(mode="json", exclude={"num_workers"})  # it changes only the speed
    if (version := version_of(check_kind(verify.kind, experiment.run.task))) is not None:
        inputs["version"] = version
    if verify.python.function:
        inputs["python"]["source"] = _source_digest(verify.python.function.partition(":")[0])
    return inputs


def _source_digest(module: str) -> str | None:
    """Digest a module's source file; None if there is none. The worker that loads the module reports that."""
    try:
        spec = importlib.util.find_spec(module) or PathFinder.find_spec(module, [*sys.path, os.getcwd()])
    except (ImportError, ValueError):
        return None
    file = Path(spec.origin) if spec and spec.origin else None
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file and file.is_file() else None
