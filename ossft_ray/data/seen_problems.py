"""Which ids and questions came before? Kept in a temporary database on the disk, so that memory stays flat.

A run that grows begins with the problems that it `holds`; reading its input again then tells which rows are these,
which are new, and which of these are missing now.
"""

import hashlib
import sqlite3
from typing import Literal

from ossft_ray.common.types import Problem

_CACHE_KIB = 32 * 1024
# Not `!`, which is a factorial, nor anything else that mathematics may begin or end with.
_OUTER = " \t\n\r.,;:?\"'“”‘’…"
Standing = Literal["new", "held", "corrected", "changed", "repeated"]


class Seen:
    """The problems met so far, and those that a run holds from before."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)  # "": a file without a name, gone when closed
        for statement in (
            "PRAGMA journal_mode = OFF",
            "PRAGMA synchronous = OFF",
            f"PRAGMA cache_size = -{_CACHE_KIB}",
            "CREATE TABLE problems (id TEXT PRIMARY KEY, question BLOB, gold BLOB, held INTEGER, met INTEGER) "
            "WITHOUT ROWID",
            "CREATE TABLE questions (digest BLOB PRIMARY KEY, id TEXT) WITHOUT ROWID",
            "BEGIN",
        ):
            self._database.execute(statement)
        self._num_held = 0

    def hold(self, problem: Problem) -> None:
        """Remember a problem that the run holds and that the input should still have."""
        self._num_held += 1
        self._write(problem, self._num_held, met=False)

    def standing(self, problem: Problem) -> Standing:
        """What a row's problem is.

        `repeated` has an id that was met before, `changed` is held with another question, `corrected` with another
        answer, verifier or expert solution to the same question.
        """
        found = self._database.execute(
            "SELECT question, gold, met FROM problems WHERE id = ?", (problem.problem_id,)
        ).fetchone()
        if found is None:
            return "new"
        question, gold, met = found
        if met:
            return "repeated"
        if question != _digest(problem.question):
            return "changed"
        return "held" if gold == _gold(problem) else "corrected"

    def same_question(self, problem: Problem) -> str | None:
        """The id of another problem, met or held, that asks the same but for case, space and outer punctuation."""
        found = self._database.execute("SELECT id FROM questions WHERE digest = ?", (_question(problem),)).fetchone()
        return None if found is None or found[0] == problem.problem_id else str(found[0])

    def meet(self, problem: Problem) -> None:
        """Remember a problem of the input; the first with its question is the one that later ones repeat."""
        self._write(problem, None, met=True)

    def missing(self) -> str | None:
        """The id of the first problem that is held and was not met."""
        found = self._database.execute("SELECT id FROM problems WHERE NOT met ORDER BY held LIMIT 1").fetchone()
        return None if found is None else str(found[0])

    def close(self) -> None:
        """Remove the database."""
        self._database.close()

    def _write(self, problem: Problem, held: int | None, met: bool) -> None:
        row = (problem.problem_id, _digest(problem.question), _gold(problem), held, met)
        self._database.execute("INSERT OR REPLACE INTO problems VALUES (?, ?, ?, ?, ?)", row)
        self._database.execute(
            "INSERT OR IGNORE INTO questions VALUES (?, ?)", (_question(problem), problem.problem_id)
        )


def normalise_question(question: str) -> str:
    """A question as it is compared: lower case, single spaces, no punctuation around it.

    >>> normalise_question(" What is  5!?\\n") == normalise_question("what is 5!")
    True
    """
    return " ".join(question.casefold().split()).strip(_OUTER)


def _question(problem: Problem) -> bytes:
    return _digest(normalise_question(problem.question))


def _gold(problem: Problem) -> bytes:
    return _digest("\x1f".join([problem.answer, problem.verifier or "", problem.expert_solution or ""]))


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
