"""The table of docs/verification.md: the kinds behave as each of its rows says."""

from pathlib import Path

import pytest

from ossft_ray.verification.kinds import load_kind

PAGE = Path(__file__).parents[2] / "docs" / "verification.md"
QUESTION = "How many?\n(A) 6 (B) seven (C) 8"


def table() -> list[list[str]]:
    """The cells of the rows, without backquotes and with `\\n` as a line end."""
    lines = PAGE.read_text(encoding="utf-8").partition("## Examples")[2].splitlines()
    rows = [line.strip("|").split(" | ") for line in lines if line.startswith("| ")]
    _, *body = [[cell.strip(" |") for cell in row] for row in rows]  # the first is the heading
    return [[cell.removeprefix("`").removesuffix("`").replace(r"\n", "\n") for cell in row] for row in body]


def test_the_table_covers_every_kind_that_reads_answers() -> None:
    rows = table()
    assert len(rows) > 40 and all(len(row) == 5 for row in rows)
    assert {row[0] for row in rows} == {"math", "choice", "number", "text"}


@pytest.mark.parametrize(("kind", "gold", "response", "read", "verdict"), table())
def test_a_row(kind: str, gold: str, response: str, read: str, verdict: str) -> None:
    found = load_kind(kind).grade(gold, response, question=QUESTION if kind == "choice" else "")
    assert (found.extracted or "", found.reason, found.correct) == (read, verdict, verdict == "correct")
