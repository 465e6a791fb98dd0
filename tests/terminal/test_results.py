"""What a command prints when it is done: figures, files, the next command, and no markup."""

import io
from typing import Any

import pytest
from rich.console import Console

from ossft_ray.config import resolve
from ossft_ray.stages.install_check import Finding
from ossft_ray.terminal import bars, results

OUTPUT = "runs/[bold]odd" + "-long" * 30
EXPERIMENT = resolve({"run": {"output": OUTPUT}, "policy": {"model": "playground"}, "data": {"path": "train.jsonl"}})


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What goes to a terminal of 80 columns."""
    file = io.StringIO()
    monkeypatch.setattr(bars, "console", Console(file=file, width=80, highlight=False))
    return file


def test_training_ends_with_its_model_and_the_next_command(printed: io.StringIO) -> None:
    manifest = {"steps": 90, "examples": 960, "too_long": ["a", "b"], "cross_entropy": 5.08541, "kept_step": 90}
    results.print_training(EXPERIMENT, manifest, "ossft evaluate --config 'my e.toml'")
    assert printed.getvalue().splitlines() == [
        "90 steps on 960 examples (2 set aside as too long), cross-entropy 5.0854",
        f"model: {OUTPUT}/train/model",
        "next: ossft evaluate --config 'my e.toml'",
    ]


def test_training_names_the_checkpoint_that_it_kept(printed: io.StringIO) -> None:
    manifest = {"steps": 90, "examples": 960, "too_long": [], "cross_entropy": 5.08541, "kept_step": 30}
    manifest |= {"holdout_examples": 12, "holdout_cross_entropy": 0.003}
    results.print_training(EXPERIMENT, manifest, "ossft evaluate")
    first, second, *_ = printed.getvalue().splitlines()
    assert first == "90 steps on 960 examples (12 held out), cross-entropy 5.0854"
    assert second == "the model is that of step 30, whose holdout cross entropy is 0.0030"


def test_a_rewrite_ends_with_its_examples_and_the_next_command(printed: io.StringIO) -> None:
    manifest: dict[str, Any] = {"problems": 4, "origins": {"self": 3, "guided": 0, "expert": 1}}
    manifest |= {"dropped": 0, "rejected": 0, "attempts": 9, "generated_tokens": 1234}
    results.print_rewriting(EXPERIMENT, manifest, "ossft score")
    first, *_, files, last = printed.getvalue().splitlines()
    assert first.split() == ["kept", "solution", "problems", "share"]
    assert "9 attempts, 1,234 tokens generated" in printed.getvalue()
    assert (files, last) == (f"examples: {OUTPUT}/rewrite", "next: ossft score")


@pytest.mark.parametrize(
    "stages, guided, shown",
    [(("self", "guided"), 0, True), (("self",), 0, False), (("self",), 1, True)],  # the last: copied from another run
)
def test_a_stage_that_was_left_out_has_no_line(
    stages: tuple[str, ...], guided: int, shown: bool, printed: io.StringIO
) -> None:
    experiment = EXPERIMENT.model_copy(update={"rewrite": EXPERIMENT.rewrite.model_copy(update={"stages": stages})})
    manifest: dict[str, Any] = {"problems": 4, "origins": {"self": 0, "guided": guided, "expert": 1}}
    manifest |= {"dropped": 0, "rejected": 0, "attempts": 9, "generated_tokens": 1234}
    results.print_rewriting(experiment, manifest, "ossft score")
    assert ("guided" in printed.getvalue()) is shown
    assert "(self)" in printed.getvalue() and "(expert)" in printed.getvalue()


def test_unjudged_attempts_come_with_a_hint() -> None:
    manifest: dict[str, Any] = {"attempts": 2, "generated_tokens": 9, "reasons": {"self": {"wrong": 2}, "guided": {}}}
    assert "unjudged" not in results.rewriting_costs(manifest)
    manifest["reasons"]["guided"] = {"unjudged": 1}
    hint = results.rewriting_costs(manifest).split("guided: 1 unjudged\n")[1]
    assert hint.startswith("unjudged: ") and hint.endswith("raise policy.engine.max_model_len")


@pytest.mark.parametrize("passed, word", [(True, "passed"), (False, "FAILED"), (None, "skipped")])
def test_a_finding_of_the_selftest_is_one_line(printed: io.StringIO, passed: bool | None, word: str) -> None:
    results.print_finding(Finding("zero_3_trains", passed, "the detail [1]"))
    assert printed.getvalue() == f"{word:<8} zero 3 trains: the detail [1]\n"


@pytest.mark.parametrize(
    "manifest, lines",
    [
        ({"suspects": [], "bad_golds": []}, []),
        (
            {"suspects": [{}]},
            [
                "1 problem may have a wrong gold answer (most of its attempts agree on another); "
                "see ossft show runs/x --suspects"
            ],
        ),
        (
            {"suspects": [{}] * 1200, "bad_golds": [{"finding": "unreadable"}, {"finding": "empty"}] * 2},
            [
                "gold answers in doubt: 2 unreadable, 2 empty; see runs/x/rewrite/manifest.json",
                "1,200 problems may have a wrong gold answer (most of their attempts agree on another); "
                "see ossft show runs/x --suspects",
            ],
        ),
    ],
)
def test_doubtful_gold_answers_and_where_to_see_them(manifest: dict[str, Any], lines: list[str]) -> None:
    assert results.doubtful_answers("runs/x", manifest) == lines


@pytest.mark.parametrize(
    "phases, line",
    [
        ({"reading data": 1.2, "rewriting": 64, "loading": 27, "sampling": 4},
         "time: 1 min 5 s in all (reading data 1 s, engine start 27 s, sampling 4 s, other 33 s)"),
        ({"rewriting": 64}, "time: 1 min 4 s in all (other 1 min 4 s)"),
        ({"reading data": 0.2}, "time: 0 s in all"),
        ({"rewriting": 10, "loading": 6, "sampling": 5}, "time: 10 s in all (engine start 6 s, sampling 5 s)"),
    ],
)  # fmt: skip
def test_the_time_of_a_rewrite(phases: dict[str, float], line: str) -> None:
    assert results._time_line(phases) == line
