"""The report's figures, against runs that were written by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ossft_ray.common.schema import DROPPED_SCHEMA, to_table
from ossft_ray.common.storage import Folder
from ossft_ray.report import tables
from ossft_ray.report.examples import choose, shares
from ossft_ray.report.logprobs import EDGES, token_groups
from ossft_ray.run_folder.rounds import RunFiles, read_run
from tests.report.runs import example, write_rewriting, write_run


@pytest.fixture
def run(tmp_path: Path) -> RunFiles:
    return read_run(write_run(str(tmp_path / "run")))[0]


def test_each_step_of_the_funnel_begins_where_the_one_before_ends(run: RunFiles) -> None:
    steps = [(step.name.split(":")[0], step.count, step.start_percent, step.percent) for step in tables.funnel(run)]
    assert steps == [("self", 2, 0, 40), ("guided", 1, 40, 20), ("expert", 1, 60, 20), ("rejected", 1, 80, 20)]


def test_an_unfinished_funnel_counts_what_is_there(tmp_path: Path) -> None:
    rows = [example(1, "self"), example(1, "self"), example(2, "guided")]  # one problem kept two responses
    write_rewriting(str(tmp_path), rows, finished=False, rows_per_part=3)
    dropped = {"problem_id": "p3", "question": "?", "answer": "1"}
    (Folder.at(str(tmp_path)) / "rewrite").write_table("dropped-00000.parquet", to_table([dropped], DROPPED_SCHEMA))
    run = read_run(str(tmp_path))[0]
    assert {step.name.split(":")[0]: step.count for step in tables.funnel(run)} == {
        "self": 1,
        "guided": 1,
        "expert": 0,
        "dropped": 1,
        "rejected": 1,
        "still to do": 4,
    }
    assert tables.attempt_reasons(run) == {"self": {"wrong": 4, "correct": 2}}
    assert run.unfinished == ["rewrite"]


@pytest.mark.parametrize(
    "origin, source, figures",
    [
        # of 1, 1/2 twice over: mean p 3/4, mean p² 5/8
        ("self", "kept response", {"tokens": 4, "perplexity": 2**0.5, "effective_sample_size": (3 / 4) ** 2 / (5 / 8)}),
        ("self", "expert's original", {"tokens": 4, "mean_logprob": -3.5}),
        ("guided", "kept response", {"tokens": 2, "perplexity": 2, "effective_sample_size": 1}),
        ("guided", "expert's original", {"tokens": 2, "mean_logprob": -4.5}),
        ("expert", "kept response", {"tokens": 2, "mean_logprob": -17, "effective_sample_size": 0.5}),
        ("all", "expert's original", {"tokens": 8, "mean_logprob": (-7 - 9 - 34 - 7) / 8}),
    ],
)
def test_policy_gap(run: RunFiles, origin: str, source: str, figures: dict[str, float]) -> None:
    rows = tables.gap_rows(run, token_groups(run))
    [found] = [row for row in rows if (row["origin"], row["source"]) == (origin, source)]
    assert {key: found[key] for key in figures} == pytest.approx(figures)


def test_histogram_counts_every_token_once(run: RunFiles) -> None:
    counts = token_groups(run)["expert", "kept"].counts
    assert counts.sum() == 2
    assert EDGES[np.flatnonzero(counts)].tolist() == [-20.0, -4.0]  # −30 stands in the first bin


def test_policy_gap_from_the_manifest_where_there_are_no_rows(tmp_path: Path) -> None:
    figures = {"mean_logprob": -1.0, "perplexity": 2.7, "effective_sample_size": 0.5, "tokens": 9}
    empty = {"mean_logprob": None, "perplexity": None, "effective_sample_size": None, "tokens": 0}
    run = RunFiles("run", Folder.at(str(tmp_path)), scoring={"kept": figures, "guided": empty})
    assert tables.gap_rows(run, {}) == [{"origin": "all", "source": "kept response", **figures}]


def test_benchmarks_have_intervals_and_a_base_stands_once(tmp_path: Path) -> None:
    runs = [read_run(write_run(str(tmp_path / name), trained=value))[0] for name, value in (("a", 0.5), ("b", 0.97))]
    rows = tables.benchmark_rows(tables.series(runs))
    assert [row["model"].split(" ")[0] for row in rows] == ["base", "trained", "trained"]
    assert [row["interval"] for row in rows] == [
        pytest.approx(each) for each in ((0.152, 0.348), (0.402, 0.598), (0.872, 1.0))
    ]


@pytest.mark.parametrize(
    "changes, gpu_hours",
    [
        ({}, {"rewrite": 1.0, "score": 0.02, "train": 2.0, "evaluate": 1.0}),
        ({"machines": {"gpus": 0}}, {"rewrite": 0, "score": 0, "train": 0, "evaluate": 0}),
        ({"machines": None}, {"rewrite": None, "score": None, "train": None, "evaluate": None}),
        (
            {"experiment": {"resources": {"num_train_workers": 1, "gpus_per_train_worker": 1}}},
            {"rewrite": 1.0, "score": 0.01, "train": 1.0, "evaluate": 1.0},
        ),
    ],
    ids=["all of the cluster's", "no gpu", "not recorded", "settled by hand"],
)
def test_gpu_hours(run: RunFiles, changes: dict[str, Any], gpu_hours: dict[str, float | None]) -> None:
    run.config.update(changes)
    run = replace(run, evaluation={"seconds": 1800.0, "generated_tokens": 5})
    assert {row["stage"]: row["gpu_hours"] for row in tables.costs(run)} == pytest.approx(gpu_hours)


def test_settings_in_which_runs_differ(tmp_path: Path) -> None:
    runs = [read_run(write_run(str(tmp_path / loss), loss=loss))[0] for loss in ("dft", "sft")]
    assert tables.differing_settings(runs) == [("train.loss", ['"dft"', '"sft"'])]


@pytest.mark.parametrize(
    "counts, given",
    [
        ((50, 2, 50), (14, 2, 14)),
        ((1, 1, 1), (1, 1, 1)),
        ((0, 0, 0), (0, 0, 0)),
        ((100, 0, 100), (15, 0, 15)),
    ],
)
def test_places_are_shared_evenly_and_none_is_left_empty(counts: tuple[int, ...], given: tuple[int, ...]) -> None:
    names = ("self", "guided", "expert")
    assert shares(dict(zip(names, counts, strict=True)), 30) == dict(zip(names, given, strict=True))


def test_examples_are_bounded_in_number_and_bytes_and_spread_over_the_parts(tmp_path: Path) -> None:
    rows = [example(number, "self" if number % 10 else "expert", response="x" * 9_000) for number in range(100)]
    write_rewriting(str(tmp_path), rows, rows_per_part=20)
    run = read_run(str(tmp_path))[0]
    chosen = choose(run, 20)
    assert chosen.shown == {"self": 10, "guided": 0, "expert": 10}
    assert chosen.there_are == {"self": 90, "guided": 0, "expert": 10}
    assert [row["problem_id"] for row in chosen.rows if row["origin"] == "expert"] == [
        f"p{n}" for n in range(0, 100, 10)
    ]
    assert chosen.rows[0]["response"].endswith("x… [3,000 more characters]")
    assert len(choose(run, 20, max_bytes=30_000).rows) == 3  # each some 8,000 with its markup
