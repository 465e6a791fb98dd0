"""An index of earlier ids and questions, in a temporary database on disk, so that memory stays flat.

For a run that grows, the index starts with its existing problems. Reading the input again then tells
which rows are existing problems, which are new, and which existing problems the input no longer contains.
"""

import hashlib
import sqlite3
from typing import Any, Literal

from ossft_ray.common.types import Problem

_SETUP = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -32768;  -- in KiB
CREATE TABLE problems (
    id TEXT PRIMARY KEY, question BLOB, gold BLOB, position INTEGER, in_input INTEGER
) WITHOUT ROWID;  -- `position` is the number of an existing problem, else null
CREATE TABLE questions (digest BLOB PRIMARY KEY, id TEXT) WITHOUT ROWID;
BEGIN;
"""
# Punctuation except "!", the factorial, and other signs that mathematics may begin or end with.
_OUTER_PUNCTUATION = " \t\n\r.,;:?\"'“”‘’…"
ProblemStatus = Literal["new", "existing", "corrected", "changed", "repeated"]


class ProblemIndex:
    """The problems of the input so far, and the existing problems of the run."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)  # "" is an unnamed file, deleted when closed
        self._database.executescript(_SETUP)
        self._num_existing = 0

    def add_existing(self, problem: Problem) -> None:
        """Add a problem of the run that the input should still contain."""
        self._num_existing += 1
        self._write(problem, self._num_existing, in_input=False)

    def add(self, problem: Problem) -> None:
        """Add a problem of the input; later problems with the same question are repetitions of the first one."""
        self._write(problem, None, in_input=True)

    def status(self, problem: Problem) -> ProblemStatus:
        """The relation of a problem of the input to the index.

        - `new`: its id is not in the index.
        - `existing`: the run has exactly this problem.
        - `corrected`: the run has this question under this id, with another answer, verifier or expert solution.
        - `changed`: the run has another question under this id.
        - `repeated`: its id was in the input before.
        """
        found = self._select("SELECT question, gold, in_input FROM problems WHERE id = ?", problem.problem_id)
        if found is None:
            return "new"
        question, gold, in_input = found
        if in_input:
            return "repeated"
        if question != _asked_digest(problem):
            return "changed"
        return "existing" if gold == _gold_digest(problem) else "corrected"

    def same_question(self, problem: Problem) -> str | None:
        """The id of another problem with the same question, apart from case, space and outer punctuation."""
        found = self._select("SELECT id FROM questions WHERE digest = ?", _question_digest(problem))
        return None if found is None or found[0] == problem.problem_id else str(found[0])

    def first_missing(self) -> str | None:
        """The id of the first existing problem that the input lacks so far."""
        found = self._select("SELECT id FROM problems WHERE NOT in_input ORDER BY position LIMIT 1")
        return None if found is None else str(found[0])

    def close(self) -> None:
        """Remove the database."""
        self._database.close()

    def _select(self, query: str, *values: str | bytes) -> Any:
        return self._database.execute(query, values).fetchone()

    def _write(self, problem: Problem, position: int | None, in_input: bool) -> None:
        row = (problem.problem_id, _asked_digest(problem), _gold_digest(problem), position, in_input)
        self._database.execute("INSERT OR REPLACE INTO problems VALUES (?, ?, ?, ?, ?)", row)
        self._database.execute(
            "INSERT OR IGNORE INTO questions VALUES (?, ?)", (_question_digest(problem), problem.problem_id)
        )


def normalise_question(question: str) -> str:
    """A question in the form that is compared: lower case, single spaces, no punctuation around it.

    >>> normalise_question(" What is  5!?\\n") == normalise_question("what is 5!")
    True
    """
    return " ".join(question.casefold().split()).strip(_OUTER_PUNCTUATION)


def _asked_digest(problem: Problem) -> bytes:
    return _digest("\x1f".join([problem.question, problem.conversation or ""]))


def _question_digest(problem: Problem) -> bytes:
    return _digest("\x1f".join([normalise_question(problem.question), problem.conversation or ""]))


def _gold_digest(problem: Problem) -> bytes:
    return _digest("\x1f".join([problem.answer, problem.verifier or "", problem.expert_solution or ""]))


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
