"""What do verdicts depend on? The keys of `[verify]` that decide them, and whose code they come from."""

import hashlib
import importlib.machinery
import importlib.util
import os
import sys
from typing import Any

from ossft_ray.config import Verify
from ossft_ray.verification.kinds import check_kind, version_of

_ONLY_SPEED = {"num_workers"}


def verify_inputs(verify: Verify) -> dict[str, Any]:
    """For the fingerprint of a stage that verifies: another tolerance, function or plug-in version gives other rows.

    Raises:
        InputError: there is no such kind.
    """
    found: dict[str, Any] = verify.model_dump(mode="json", exclude=_ONLY_SPEED)
    if (version := version_of(check_kind(verify.kind))) is not None:
        found["version"] = version
    if verify.python.function:
        found["python"]["source"] = _source_digest(verify.python.function.partition(":")[0])
    return found


def _source_digest(module: str) -> str | None:
    """Of the file that a user's function stands in; None where it is not found, which loading it will say."""
    path = [*sys.path, os.getcwd()]
    try:
        spec = importlib.util.find_spec(module) or importlib.machinery.PathFinder.find_spec(module, path)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not os.path.isfile(spec.origin):
        return None
    with open(spec.origin, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()[:16]
