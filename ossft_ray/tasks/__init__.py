"""Tasks: the prompts and the verifier of a domain, as defaults for an experiment; mathematics is one of them.

A task is a TOML file with the tables `[prompts]` and `[verify]` of an experiment. Those of this folder are known by
name (`[run] task = "choice"`); any other is given by its path, which ends with `.toml`.
"""

import difflib
import tomllib
from pathlib import Path
from typing import Any

from ossft_ray.common.errors import InputError

DEFAULT_TASK = "math"
TASKS = tuple(sorted(file.stem for file in Path(__file__).parent.glob("*.toml")))
_TABLES = ("prompts", "verify")


def read_task(name: str) -> dict[str, dict[str, Any]]:
    """The tables of a task.

    Raises:
        InputError: there is no such task, or its file is not TOML or has another table.
    """
    if name not in TASKS and not name.endswith(".toml"):
        near = difflib.get_close_matches(name, TASKS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(TASKS)}, or the path of a .toml file"
        raise InputError(f"[run] task: there is no task '{name}'; {hint}")
    file = Path(__file__).with_name(f"{name}.toml") if name in TASKS else Path(name).expanduser()
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not valid TOML: {error}"
        raise InputError(f"[run] task: {name}: {reason}") from error
    for key, value in tables.items():
        if key not in _TABLES or not isinstance(value, dict):
            raise InputError(
                f"[run] task: {name}: '{key}' does not belong here; a task has [prompts] and [verify] only"
            )
    return tables


def with_task(settings: dict[str, Any], task: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """An experiment's settings, which override its task's. A `template` of its own replaces the task's texts."""
    prompts = settings.get("prompts")
    if isinstance(prompts, dict) and "template" in prompts:
        task = {name: table for name, table in task.items() if name != "prompts"}
    return _over(settings, task)


def _over(own: dict[str, Any], below: dict[str, Any]) -> dict[str, Any]:
    both = {name: _over(own[name], below[name]) for name in own.keys() & below.keys() if _are_tables(own, below, name)}
    return {**below, **own, **both}


def _are_tables(own: dict[str, Any], below: dict[str, Any], name: str) -> bool:
    return isinstance(own[name], dict) and isinstance(below[name], dict)
