"""A terminal shows every last line that a pipe gets, whatever the width and however the command ends."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.terminal.pseudo_terminal import run_on_terminal
from tests.terminal.scripted_commands import ENDS, RESULTS

CODES = {"success": 0, "error": 1, "refusal": 2, "stop": 130, "Ctrl-C": 130}


def commands(output: Path) -> list[str]:
    return [sys.executable, "-m", "tests.terminal.scripted_commands", str(output)]


def sections(lines: list[str]) -> dict[str, list[str]]:
    """The lines of each command, by the line that says how it ended."""
    found: dict[str, list[str]] = {}
    section: list[str] = []
    for line in lines:
        if line.startswith("== "):
            found[line], section = section, []
        elif line.strip():
            section.append(line)
    return found


def words(lines: list[str]) -> str:
    """The words in order: a narrow terminal breaks lines between them."""
    return " ".join(" ".join(lines).split())


@pytest.fixture(scope="module")
def piped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What each command prints into a pipe after its last progress."""
    output = tmp_path_factory.mktemp("piped") / "run"
    done = subprocess.run(
        commands(output), check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120
    )
    found = sections([line.replace(str(output), "OUTPUT") for line in done.stdout.splitlines()])
    assert [name.removeprefix("== ") for name in found] == [
        f"{stage}, {end}: {CODES[end]}" for stage in RESULTS for end in ENDS
    ]
    return {name: [line for line in lines if not line.endswith("...")] for name, lines in found.items()}


@pytest.mark.parametrize("columns", [80, 120])
def test_nothing_is_lost_on_a_terminal(piped: dict[str, list[str]], tmp_path: Path, columns: int) -> None:
    output = tmp_path / "run"
    shown = run_on_terminal(commands(output), columns, seconds=120)
    assert shown.code == 0
    found = sections([line.replace(str(output), "OUTPUT") for line in shown.lines])
    assert found.keys() == piped.keys()
    for name, last_lines in piped.items():
        assert last_lines, name
        assert words(last_lines) in words(found[name]), name
    assert "what Ray prints" not in words(shown.lines)
    assert (output / "logs/ray.log").read_text() == "what Ray prints\n" * len(piped)
    long = [line for line in shown.lines if len(line) > columns and not line.startswith(("next: ", "error: "))]
    assert [line for line in long if str(output) not in line] == [], "commands and paths are not broken, the rest fits"
