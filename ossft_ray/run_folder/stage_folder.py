"""Start and end of a stage in its folder: its inputs, their fingerprint, and the manifest that marks it complete."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ossft_ray.common.errors import InputError, brief
from ossft_ray.common.storage import Folder
from ossft_ray.run_folder.names import INPUTS, MANIFEST

EXAMPLES_CHANGED = "the examples have changed since"
SCORES_CHANGED = "the scores have changed since"
MODEL_CHANGED = "the model has changed since"
# Said instead of two digests
_CHANGED = {"rewrite": EXAMPLES_CHANGED, "score": SCORES_CHANGED, "policy_files": MODEL_CHANGED, "model": MODEL_CHANGED}

MayChange = Callable[[str, Any, Any], bool]
"""(key, old value, new value) -> whether stored rows stay valid with the new value, and more can be added to them."""


@dataclass(frozen=True)
class Difference:
    """A key whose value differs between two nested dicts."""

    key: str  # dotted
    old: Any
    new: Any

    def __str__(self) -> str:
        if self.key in _CHANGED and isinstance(self.old, str) and isinstance(self.new, str):
            return _CHANGED[self.key]
        return f"{self.key} was {_shorten(self.old)}, is now {_shorten(self.new)}"


def fingerprint(inputs: dict[str, Any]) -> str:
    """SHA-256 of the inputs as canonical JSON: equal exactly when all keys and values are."""
    canonical = json.dumps(inputs, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def begin_stage(
    folder: Folder,
    inputs: dict[str, Any],
    start_over: bool = False,
    may_change: MayChange | None = None,
    elsewhere: str = "Use another [run] output",
) -> dict[str, Any] | None:
    """The manifest if the stage is complete; None if it has work to do, from the start or from where it stopped.

    A complete stage has work to do if its inputs changed in ways that `may_change` allows. Its manifest and recorded
    inputs stay as they are: the stage replaces them once it knows that it can continue. `elsewhere` tells the user
    what to do instead of discarding the rows.

    Raises:
        InputError: the folder holds rows made from other inputs; names the keys that differ.
    """
    try:
        if start_over:
            folder.delete()
        if not folder.exists(INPUTS):
            folder.write_json(INPUTS, inputs)
            return None
    except OSError as error:
        raise InputError(f"{folder.path} cannot be written to: {brief(error)}; choose another [run] output") from error
    changes = changed_inputs(folder, inputs)
    refused = [d for d in changes if may_change is None or not may_change(d.key, d.old, d.new)]
    if refused:
        raise InputError(
            f"{folder.path} was made with different settings: {'; '.join(map(str, refused))}. "
            f"{elsewhere}, or --start-over to redo it."
        )
    return folder.read_json(MANIFEST) if folder.exists(MANIFEST) and not changes else None


def changed_inputs(folder: Folder, inputs: dict[str, Any]) -> list[Difference]:
    """How a stage's inputs differ from those that its folder records; empty where none are recorded.

    Raises:
        InputError: the record cannot be read.
    """
    if not folder.exists(INPUTS):
        return []
    try:
        recorded = folder.read_json(INPUTS)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder.path}/{INPUTS}: cannot be read: {brief(error)}; pass --start-over") from error
    return differences(recorded, json.loads(json.dumps(inputs)))


def finish_stage(folder: Folder, inputs: dict[str, Any], manifest: dict[str, Any]) -> dict[str, Any]:
    """Write the manifest, which marks the stage as complete, and return it as written."""
    complete = {**manifest, "fingerprint": fingerprint(inputs), "complete": True}
    folder.write_json(MANIFEST, complete)
    return complete


def differences(old: Any, new: Any, key: str = "") -> list[Difference]:
    """The dotted keys whose values differ between two nested dicts."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted(old.keys() | new.keys())
        return [d for name in names for d in differences(old.get(name), new.get(name), f"{key}.{name}".strip("."))]
    return [] if old == new else [Difference(key, old, new)]


def _shorten(value: Any) -> str:
    if value is None:
        return "not set"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "..."
