"""What `ossft verify` prints when it is done."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ossft_ray.stages.verify import GradedRow, VerifySummary
from ossft_ray.terminal.verdicts import print_verification


@pytest.mark.parametrize(
    "reasons, limits",
    [
        ({"correct": 3, "timeout": 1}, "1 hit the time or memory limit"),
        ({"correct": 3, "wrong": 1}, "none hit the time or memory limit"),
    ],
)
def test_a_verification_ends_with_its_file(
    reasons: dict[str, int], limits: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_verification(VerifySummary(Path("out/[x].jsonl"), 4, 3, reasons, 0.002))
    *_, total, file = capsys.readouterr().out.splitlines()
    assert total == f"4 rows, 75.0% correct, {limits}, 2,000 verdicts/s"
    assert file == "verdicts: out/[x].jsonl"


def test_unjudged_rows_come_with_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    print_verification(VerifySummary(Path("o.jsonl"), 4, 3, {"correct": 3, "unjudged": 1}, 1))
    assert "\nunjudged: a judge needs --kind judge, --set policy.model=MODEL" in capsys.readouterr().out


def test_chosen_rows_are_shown_with_what_was_read(capsys: pytest.CaptureFixture[str]) -> None:
    shown = [GradedRow(3, "wrong", "2", "[b]3", "a\x1b[2J\n\\boxed{[b]3}"), GradedRow(4, "no_answer", "", None, "")]
    only = ("wrong", "no_answer", "nope")
    print_verification(VerifySummary(Path("o.jsonl"), 4, 1, {"wrong": 2, "correct": 2}, 1, only, shown))
    lines = capsys.readouterr().out.splitlines()
    assert lines[:6] == [
        "== row 3: wrong    answer 2, read [b]3", "a\\x1b[2J", "\\boxed{[b]3}", "",
        "== row 4: no_answer    answer (none), read (none)", "",
    ]  # fmt: skip
    assert lines[-2:] == ["verdicts: o.jsonl (2 of the rows)", "no row has the verdict no_answer or nope"]


def test_the_command(tmp_path: Path, command: Callable[[str], Callable[..., str]]) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text('{"answer": "5", "response": "#### 6"}\n{"answer": "5", "response": "#### 5"}\n')
    written = command("verify")(str(file), "--only", "wrong, unparsed", "--show", "3", "--workers", "1")
    assert "== row 1: wrong    answer 5, read 6\n#### 6\n" in written and "row 2" not in written
    assert written.splitlines()[-1] == "no row has the verdict unparsed"
    assert "or --overwrite to replace it" in command("verify")(str(file), code=2)
    assert "2 rows, 50.0% correct" in command("verify")(str(file), "--overwrite", "--workers", "1")
