"""Progress on the terminal: counts, shares, the rate of each policy, the time left; and tables of results."""

import io
import re
from typing import Any

import pytest
from rich.console import Console

from ossft_ray.common.durations import duration
from ossft_ray.terminal import bars, results


@pytest.mark.parametrize(
    "seconds, text", [(0.4, "0 s"), (42, "42 s"), (200, "3 min 20 s"), (3599.6, "1 h 0 min"), (7500, "2 h 5 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


SHARES = "self 25%  guided 50%  expert 25%"
READY = {"policies": 2, "draws": 3, "requests": 9, "sampled_tokens": 4000, "sampling_ms": 3000}
HALF = {"problems": 40, "self": 10, "guided": 20, "expert": 10, "sampled_tokens": 8000, "sampling_ms": 80_000}
ALL = HALF | {"problems": 80, "self": 20, "guided": 40, "expert": 20, "policies": 1}


def lines_of(monkeypatch: pytest.MonkeyPatch, reports: list[tuple[float, dict[str, Any]]]) -> list[str]:
    """The lines of `rewrite` without a terminal, from reports that arrive at these seconds."""
    lines: list[str] = []
    clock = [0.0]
    monkeypatch.setattr(bars.time, "monotonic", lambda: 1000 + clock[0])
    monkeypatch.setattr(bars.console, "print", lambda line, **options: lines.append(line))
    on_progress = bars.StageBars().begin("rewrite")
    for clock[0], totals in reports:
        on_progress(totals if "starting" in totals else {"total": 100, "done_before": 20} | totals)
    return lines


def test_without_a_terminal_there_is_one_line_a_minute_and_none_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lines_of(
        monkeypatch,
        [
            (1, {"starting": "reading the data"}),
            (30, {"starting": "loading the policy"}),
            (61, {}),
            (122, {}),
            (130, READY),
            (183, READY | {"sampling_ms": 9000}),
            (190, HALF | {"policies": 2}),
            (244, HALF | {"policies": 2}),
            (250, ALL),
            (251, ALL | {"sampling_ms": 90_000}),  # its workers are ending
            (320, ALL | {"sampling_ms": 99_000}),
        ],
    ) == [
        "rewrite ...",
        "  rewrite: 20/100 problems  loading the policy",
        "  rewrite: 20/100 problems  3 draws done, 9 under way  4,000 tokens",
        f"  rewrite: 60/100 problems  {SHARES}  2 × 100 tokens/s  40 s left",
        f"  rewrite: 100/100 problems  {SHARES}  100 tokens/s",
    ]


@pytest.mark.parametrize(
    "totals, words",
    [
        ({}, ["loading the policy"]),
        ({"policies": 1, "requests": 9}, ["0 draws done, 9 under way", "0 tokens"]),
        ({"policies": 1, "problems": 1, "self": 1, "sampled_tokens": 90, "sampling_ms": 900}, ["self", "guided"]),
        # the rate is that of an engine while it sampled; one problem does not tell the time left
        ({"policies": 2, "problems": 1, "sampled_tokens": 900, "sampling_ms": 9000}, ["2 × 100 tokens/s"]),
        (
            {"policies": 1, "problems": 8, "sampled_tokens": 900, "sampling_ms": 9000},
            ["100 tokens/s", "1 min 21 s left"],
        ),
    ],
)
def test_a_rate_and_the_time_left_are_shown_once_they_are_known(totals: dict[str, Any], words: list[str]) -> None:
    bar = bars._rewrite({"total": 100, "done_before": 20} | totals)
    text = bar.line()
    assert all(word in text for word in words)
    assert ("tokens/s" in text, " left" in text, "loading" in text) == (
        any("tokens/s" in word for word in words),
        any(" left" in word for word in words),
        not totals,
    )


@pytest.mark.parametrize(
    "totals, shares",
    [
        ({}, "self 0%  guided 0%  expert 100%"),
        ({"stages": ["self"]}, "self 0%  expert 100%"),
        ({"stages": ["self", "external"]}, "self 0%  external 0%  expert 100%"),
        ({"stages": [], "guided": 2}, "guided 100%  expert 100%"),  # copied from another run
    ],
)
def test_only_stages_of_the_run_have_a_share(totals: dict[str, Any], shares: str) -> None:
    line = bars._rewrite({"total": 9, "done_before": 0, "policies": 1, "problems": 2, "expert": 2} | totals).line()
    assert line == f"2/9 problems  {shares}"


@pytest.mark.parametrize("rows, seconds, words", [(1, 0.1, []), (1, 5.0, ["0 verdicts/s"]), (50, 5.0, ["5 s left"])])
def test_verification_shows_no_rate_from_its_first_row(rows: int, seconds: float, words: list[str]) -> None:
    text = bars._verify({"rows": rows, "total": 100, "correct": 0, "seconds": seconds}).line()
    assert all(word in text for word in words)
    assert ("verdicts/s" in text, " left" in text) == (seconds > 1, rows > 1)


def drawn(monkeypatch: pytest.MonkeyPatch, width: int, stage: str, reports: list[dict[str, Any]]) -> str:
    """What a terminal of this width shows at the end, without control sequences."""
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=True, color_system=None, highlight=False)
    monkeypatch.setattr(bars, "console", console)
    with bars.StageBars() as shown:
        on_progress = shown.begin(stage)
        for totals in reports:
            on_progress(totals)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue()).split("\r")[-1].rstrip("\n")


@pytest.mark.parametrize(
    "width, words",
    [
        (200, ["60/100 problems", *SHARES.split("  "), "2 × 100 tokens/s", "40 s left"]),
        (120, ["60/100 problems", "self 25%", "2 × 100 tokens/s", "40 s left"]),
        (80, ["60/100 problems", "2 × 100 tokens/s", "40 s left"]),
        (40, ["60/100 problems"]),
    ],
)
def test_a_narrow_terminal_gets_fewer_details_and_no_cut_words(
    monkeypatch: pytest.MonkeyPatch, width: int, words: list[str]
) -> None:
    line = drawn(monkeypatch, width, "rewrite", [{"total": 100, "done_before": 20} | HALF | {"policies": 2}])
    known = ["60/100 problems", "0:00", *SHARES.split("  "), "2 × 100 tokens/s", "40 s left"]
    assert len(line) <= width
    found = line.removeprefix("rewrite").replace("━", "").strip().split("  ")
    assert set(words) <= set(found) <= set(known), line


@pytest.mark.parametrize("width", [80, 120])
def test_a_bar_says_what_is_starting(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    shown = []
    monkeypatch.setattr(bars.StageBars, "_show", lambda self, name, what: shown.append((name, what)))
    drawn(monkeypatch, width, "evaluate", [{"model": "base", "starting": "starting Ray"}])
    assert shown == [("evaluate", "starting"), ("base", "starting Ray")]


def test_a_bar_that_counted_nothing_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    line = drawn(monkeypatch, 80, "score", [{"starting": "starting Ray"}, {"already_complete": True}])
    assert "starting" not in line


def test_costs_list_extra_attempts_and_reasons() -> None:
    manifest = {
        "attempts": 1200,
        "generated_tokens": 34000,
        "redone_attempts": 7,
        "redone_tokens": 70,
        "speculative_attempts": 0,
        "speculative_tokens": 0,
        "reasons": {"self": {"wrong": 900, "correct": 100}, "guided": {"copies_reference": 2}},
        "phases": {"reading data": 1.2, "rewriting": 200.0, "loading": 27.0, "sampling": 100.0},
    }
    assert results.rewriting_costs(manifest).splitlines() == [
        "1,200 attempts, 34,000 tokens generated",
        "plus 7 attempts repeated after an interruption",
        "self: 900 wrong, 100 correct",
        "guided: 2 copies_reference",
        "time: 3 min 21 s in all (reading data 1 s, engine start 27 s, sampling 1 min 40 s, other 1 min 13 s)",
    ]


@pytest.mark.parametrize(
    "totals, expected",
    [
        ({"parts": 0, "tokens": 0, "seconds": 0.0}, "2/10 parts  loading, then the first part"),
        ({"parts": 3, "tokens": 900, "seconds": 6.0}, "5/10 parts  150 tokens/s  10 s left"),
        ({"parts": 8, "tokens": 900, "seconds": 6.0}, "10/10 parts  150 tokens/s"),
    ],
)
def test_scoring_shows_parts_rate_and_time_left(totals: dict[str, Any], expected: str) -> None:
    assert bars._score({"total": 10, "done_before": 2} | totals).line() == expected


def test_the_gap_paired_by_problem_comes_first_with_its_interval() -> None:
    gap = {
        "problems": 960,
        "before": -9.5,
        "after": -2.16,
        "difference": 7.34,
        "stderr": 0.12,
        "low": 7.1,
        "high": 7.58,
    }
    lines = results.problem_gap({"gap": {"kept": gap}})
    assert " ".join(lines[: lines.index("")]) == (
        "policy gap, paired by problem: +7.34 nats a token (95% interval +7.10 to +7.58), -9.50 to -2.16, 960 problems"
    )
    assert results.problem_gap({"gap": {"kept": None}}) == results.problem_gap({}) == []
    one = gap | {"problems": 1, "low": None, "high": None}
    assert "interval" not in " ".join(results.problem_gap({"gap": {"kept": one}}))


def test_plain_text_figures_are_printed_if_asked_for() -> None:
    figures = {"responses": 3, "mean_logprob": -1.5}
    plain = {"kept": figures, "expert_originals": figures | {"mean_logprob": -3.25}, "gap": None}
    words = " ".join(results.plain_text_gap({"plain_text": plain}))
    assert "mean log p -1.500 kept, -3.250 experts' originals" in words
    assert results.plain_text_gap({}) == []


def test_the_gap_table_shows_groups_with_tokens() -> None:
    none = {"tokens": 0, "responses": 0, "mean_logprob": None, "perplexity": None, "effective_sample_size": None}
    some = {
        "tokens": 1200,
        "responses": 9,
        "mean_logprob": -0.5,
        "perplexity": 1.6487,
        "effective_sample_size": 0.75,
    }
    manifest = {"self": some, "guided": none, "expert": none, "kept": some, "expert_originals": some}
    table = results.gap_table(manifest | {"too_long": {"kept": 0, "expert_originals": 2}})
    columns = [list(column.cells) for column in table.columns]
    assert Console(width=80).measure(table).maximum <= 80
    assert columns[0] == ["kept, self", "all kept", "experts' originals", "left out as too long"]
    assert columns[1] == ["9", "9", "9", "0 kept, 2 experts'"]
    assert [column[0] for column in columns[2:]] == ["1,200", "-0.500", "1.65", "0.750"]
