"""Progress on the terminal: counts, shares, the rate of each policy, the time left; and tables of results."""

from typing import Any

import pytest

from ossft_ray.common.durations import duration
from ossft_ray.terminal import bars, results


@pytest.mark.parametrize(
    "seconds, text", [(0.4, "0 s"), (42, "42 s"), (200, "3 min 20 s"), (3599.6, "1 h 0 min"), (7500, "2 h 5 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def lines_of(monkeypatch: pytest.MonkeyPatch, reports: list[tuple[float, dict[str, Any]]]) -> list[str]:
    """The lines of `rewrite` without a terminal, from reports that each arrive at a time in seconds."""
    lines: list[str] = []
    clock = [0.0]
    monkeypatch.setattr(bars.time, "monotonic", lambda: 1000 + clock[0])
    monkeypatch.setattr(bars.console, "print", lambda line, **options: lines.append(line))
    on_progress = bars.StageBars().begin("rewrite")
    for clock[0], totals in reports:
        on_progress({"total": 100, "done_before": 20} | totals)
    return lines


def test_progress_shows_shares_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    half = {"problems": 40, "self": 10, "guided": 20, "expert": 10, "generated_tokens": 8000, "policies": 2}
    lines = lines_of(monkeypatch, [(0, {}), (20, {"generated_tokens": 1, "policies": 2}), (60, half)])
    assert lines == [
        "rewrite ...",
        "  rewrite: 20/100 problems  loading",
        "  rewrite: 20/100 problems  ",
        "  rewrite: 60/100 problems  self 25%  guided 50%  expert 25%  100 tokens/s by each of 2 policies  40 s left",
    ]


def test_the_rate_of_a_single_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    done = {"problems": 80, "self": 80, "generated_tokens": 8000, "policies": 1}
    *_, last = lines_of(monkeypatch, [(0, {"generated_tokens": 1, "policies": 1}), (20, done)])
    assert last == "  rewrite: 100/100 problems  self 100%  guided 0%  expert 0%  400 tokens/s"


def test_costs_list_extra_attempts_and_reasons() -> None:
    manifest = {
        "attempts": 1200,
        "generated_tokens": 34000,
        "redone_attempts": 7,
        "redone_tokens": 70,
        "speculative_attempts": 0,
        "speculative_tokens": 0,
        "reasons": {"self": {"wrong": 900, "correct": 100}, "guided": {"copies_reference": 2}},
        "phases": {"reading data": 1.2, "rewriting": 200.0, "loading": 60.0, "sampling": 130.0},
    }
    assert results.rewriting_costs(manifest).splitlines() == [
        "1,200 attempts, 34,000 tokens generated",
        "besides: 7 repeated after an interruption",
        "self: 900 wrong, 100 correct",
        "guided: 2 copies_reference",
        "time: 3 min 21 s in all (reading data 1 s, engine start 1 min 0 s, sampling 2 min 10 s, other 10 s)",
    ]


@pytest.mark.parametrize(
    "totals, expected",
    [
        ({"parts": 0, "tokens": 0, "seconds": 0.0}, (2, 10, "parts", ["loading"])),
        ({"parts": 3, "tokens": 900, "seconds": 6.0}, (5, 10, "parts", ["150 tokens/s", "10 s left"])),
        ({"parts": 8, "tokens": 900, "seconds": 6.0}, (10, 10, "parts", ["150 tokens/s"])),
    ],
)
def test_scoring_shows_parts_rate_and_time_left(totals: dict[str, Any], expected: tuple[Any, ...]) -> None:
    assert bars._score({"total": 10, "done_before": 2} | totals, bars._SamplingRate()) == expected


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
    assert columns[0] == ["kept, self", "all kept", "experts' originals", "left out as too long"]
    assert columns[1] == ["9", "9", "9", "0 kept, 2 experts'"]
    assert [column[0] for column in columns[2:]] == ["1,200", "-0.500", "1.65", "0.750"]
