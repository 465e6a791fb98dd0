"""Which kinds of verification are there? One function each, in a module of this folder or in another package.

A kind is a function

    grade(answer: str, response: str, *, question: str = "", **settings) -> Verdict

`settings` are the keys of `[verify.KIND]`. It may hang, crash or fill the memory (the pool ends it),
but must not raise for what a model wrote. A module may also have `check_answer(answer, *, question="", **settings)`,
which says whether a gold answer can be compared with at all; without it, the answer in a box must be right.

Another package adds a kind by an entry point of the group `ossft_ray.verifiers` that names such a function (or module):

    [project.entry-points."ossft_ray.verifiers"]
    chess = "my_package.chess:grade"
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ossft_ray.common.errors import InputError
from ossft_ray.common.verdict import Verdict

ENTRY_POINTS = "ossft_ray.verifiers"
Grade = Callable[..., Verdict]


@dataclass(frozen=True)
class Kind:
    """What grades, and what checks a gold answer."""

    grade: Grade
    check_answer: Grade


def kinds() -> list[str]:
    """The names of all kinds: this folder's, then those of other packages."""
    own = _own()
    return [*own, *sorted(entry.name for entry in entry_points(group=ENTRY_POINTS) if entry.name not in own)]


def check_kind(kind: str) -> str:
    """The kind, if there is one of that name.

    Raises:
        InputError: there is none; names those that there are.
    """
    if kind not in kinds():
        raise InputError(f"there is no verification kind '{kind}'; kinds: {', '.join(kinds())}")
    return kind


def module_of(kind: str) -> str:
    """The module that a kind lives in, in full."""
    return f"{__name__}.{kind}" if kind in _own() else _entry_point(kind).module


def version_of(kind: str) -> str | None:
    """The version of the other package that brings a kind; None for this package's own."""
    if kind in _own():
        return None
    distribution = _entry_point(kind).dist
    return distribution.version if distribution else None


def load_kind(kind: str) -> Kind:
    """Import a kind; takes seconds where it needs a heavy library."""
    found: Any = importlib.import_module(module_of(kind)) if kind in _own() else _entry_point(kind).load()
    grade = getattr(found, "grade", found)
    return Kind(grade, getattr(found, "check_answer", _answer_in_a_box(grade)))


def _own() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(__path__)]


def _entry_point(kind: str) -> EntryPoint:
    return next(iter(entry_points(group=ENTRY_POINTS, name=kind)))


def _answer_in_a_box(grade: Grade) -> Grade:
    def check_answer(answer: str, **settings: Any) -> Verdict:
        return grade(answer, rf"\boxed{{{answer}}}", **settings)

    return check_answer
