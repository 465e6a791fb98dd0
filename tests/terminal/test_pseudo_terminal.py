"""A terminal shows all final lines that a pipe gets, whatever the width and however the command ends."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ossft_ray.run_folder.status import status
from tests.stages.rows import write_examples
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
    return {name: [line for line in lines if not line.endswith(("...", "warns"))] for name, lines in found.items()}


@pytest.mark.thorough
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
    assert shown.lines.count("a library warns") == len(piped), "a line of its own above the bar"
    assert (output / "logs/ray.log").read_text() == "what Ray prints\n" * len(piped)
    long = [line for line in shown.lines if len(line) > columns and not line.startswith(("next: ", "error: "))]
    assert [line for line in long if str(output) not in line] == [], "commands and paths are not broken, the rest fits"


def state(output: Path, stage: str) -> Any:
    (stages,) = status(str(output)).rounds
    return next(found for found in stages if found.name == stage)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.ray
@pytest.mark.engine
def test_real_commands_and_their_status_say_how_they_ended(tmp_path: Path) -> None:
    """Ray, vLLM and DeepSpeed write to their own file descriptors; here the real ones start."""
    ossft, output, config = str(Path(sys.executable).with_name("ossft")), tmp_path / "run", tmp_path / "e.toml"
    row = {"problem": "Work out 3 + 4.", "answer": "7", "solution": "3 + 4 = 7"}
    (tmp_path / "problems.jsonl").write_text(json.dumps(row) + "\n")
    write_examples(str(output), 8)
    config.write_text(
        f'[run]\noutput = "{output}"\n[policy]\nmodel = "playground"\n[data]\npath = "{tmp_path}/problems.jsonl"\n'
        '[train]\nglobal_batch_size = 4\nmax_length = 512\nprecision = "fp32"\n'
    )
    options = ["--config", str(config)]
    stopped = run_on_terminal([ossft, "train", *options], 80, interrupt_at="loading the model")
    assert (stopped.code, state(output, "train").state) == (130, "stopped")
    assert "Stopped. Run the same command to resume." in stopped.lines

    done = run_on_terminal([ossft, "train", *options], 120)
    assert (done.code, state(output, "train").state) == (0, "complete"), done.lines
    assert "2 steps on 8 examples" in words(done.lines)
    assert f"next: ossft evaluate --config {config}" in done.lines

    other = tmp_path / "other"
    options += ["--set", f"run.output={other}", "--set", "policy.engine.max_num_batched_tokens=1"]
    failed = run_on_terminal([ossft, "rewrite", *options], 80)
    reason = "max_num_batched_tokens (1) is smaller than max_model_len"
    assert failed.code == 1 and reason in words(failed.lines), failed.lines
    assert "run the same command again to resume" not in words(failed.lines)
    assert (state(other, "rewrite").state, reason in state(other, "rewrite").reason) == ("failed", True)
