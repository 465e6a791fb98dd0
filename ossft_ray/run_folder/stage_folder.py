"""How a stage begins and ends in its folder: its inputs, their fingerprint, and the manifest that marks it complete."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ossft_ray.common.errors import InputError, brief
from ossft_ray.common.storage import Folder
from ossft_ray.run_folder.names import INPUTS, MANIFEST

Extends = Callable[[str, Any, Any], bool]
"""(key, old value, new value) -> whether what was made stays valid with the new one, and more can be added to it."""


@dataclass(frozen=True)
class Difference:
    """A key of a stage's inputs that is not what it was."""

    key: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.key} ({_brief(self.old)}, now {_brief(self.new)})"


def fingerprint(inputs: dict[str, Any]) -> str:
    """SHA-256 of the inputs as canonical JSON: equal exactly when all keys and values are."""
    canonical = json.dumps(inputs, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def begin_stage(
    folder: Folder, inputs: dict[str, Any], start_over: bool = False, extends: Extends | None = None
) -> dict[str, Any] | None:
    """The manifest if this stage is complete; None if it is to run, now or on from where it was.

    Where inputs differ only in ways that `extends` allows, a complete stage is to run again. Its manifest and the
    inputs as recorded stay until it has found that it can, and replaces them itself.

    Raises:
        InputError: the folder holds rows made from other inputs; names the keys that differ.
    """
    try:
        if start_over:
            folder.delete()
        has_begun = folder.exists(INPUTS)
        if not has_begun:
            folder.write_json(INPUTS, inputs)
    except OSError as error:
        raise InputError(f"{folder.path} cannot be written to: {brief(error)}; choose another [run] output") from error
    if has_begun:
        differing = differences(folder.read_json(INPUTS), json.loads(json.dumps(inputs)))
        refused = [d for d in differing if extends is None or not extends(d.key, d.old, d.new)]
        if refused:
            raise InputError(
                f"{folder.path} was made with other settings: {'; '.join(map(str, refused))}; "
                "choose another [run] output, or pass --start-over to make it anew"
            )
        return folder.read_json(MANIFEST) if folder.exists(MANIFEST) and not differing else None
    return None


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


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "..."
