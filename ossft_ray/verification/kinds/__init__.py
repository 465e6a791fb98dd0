"""The kinds of verification, one grader per module of this folder or in another package.

A grader is a function

    grade(answer: str, response: str, *, question: str = "", **settings) -> Verdict

whose `settings` are the keys of `[verify.KIND]`. It may hang, crash or fill the memory, since the pool ends it. It must
not raise, whatever a model wrote. A module may also have `check_answer(answer, *, question="", **settings)`, which says
whether a gold answer is usable. Without it, a gold answer passes if its own text in a box is correct.

Another package adds a kind with an entry point of the group `ossft_ray.verifiers` that names such a function or module:

    [project.entry-points."ossft_ray.verifiers"]
    chess = "my_package.chess:grade"
"""

import difflib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ossft_ray.common.errors import InputError
from ossft_ray.common.verdict import Verdict
from ossft_ray.tasks import read_task

_GROUP = "ossft_ray.verifiers"  # of entry points
Grade = Callable[..., Verdict]


@dataclass(frozen=True)
class Kind:
    """A kind's two functions: `grade` for responses and `check_answer` for gold answers."""

    grade: Grade
    check_answer: Grade


def kinds() -> list[str]:
    """The names of all kinds: those of this folder, then those of other packages."""
    return list(_entries())


def check_kind(kind: str, task: str = "") -> str:
    """Return the name of a kind that exists.

    Raises:
        InputError: there is no such kind; the message names the nearest one, and the `task` if the name comes from it.
    """
    if kind not in kinds():
        near = difflib.get_close_matches(kind, kinds(), n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"kinds: {', '.join(kinds())}"
        file = f"{task}: " if task and read_task(task).get("verify", {}).get("kind") == kind else ""
        raise InputError(f"{file}[verify] kind: there is no verification kind '{kind}'; {hint}")
    return kind


def module_of(kind: str) -> str:
    """The full name of the module that defines a kind."""
    return _entries()[kind].module


def version_of(kind: str) -> str | None:
    """The version of the other package that defines a kind; None for a kind of this package."""
    distribution = _entries()[kind].dist
    return distribution.version if distribution else None


def load_kind(kind: str) -> Kind:
    """Import a kind, which takes seconds if it needs a heavy library."""
    found: Any = _entries()[kind].load()
    grade: Grade = getattr(found, "grade", found)

    def check_boxed_answer(answer: str, **settings: Any) -> Verdict:
        return grade(answer, rf"\boxed{{{answer}}}", **settings)

    return Kind(grade, getattr(found, "check_answer", check_boxed_answer))


@cache
def _entries() -> dict[str, EntryPoint]:
    """The entry points of all kinds by name. Another package cannot replace a kind of this folder."""
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    built_in = {name: EntryPoint(name, f"{__name__}.{name}", _GROUP) for name in names}
    others = {entry.name: entry for entry in sorted(entry_points(group=_GROUP), key=lambda entry: entry.name)}
    return built_in | {name: entry for name, entry in others.items() if name not in built_in}
