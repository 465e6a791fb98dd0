"""The report's figures against runs written by hand."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ossft_ray.common.storage import Folder
from ossft_ray.method.gap import EDGES
from ossft_ray.report import tables
from ossft_ray.report.examples import choose_examples, share_evenly
from ossft_ray.run_folder.parts import write_part
from ossft_ray.run_folder.reader import RunFolder, open_rounds
from tests.report.runs import example, write_rewriting, write_run


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return open_rounds(write_run(str(tmp_path / "run")))[0]


def test_each_step_of_the_funnel_begins_where_the_one_before_ends(run: RunFolder) -> None:
    keys = ("count", "start_percent", "percent")
    steps = [(step["name"].split(":")[0], *(step[key] for key in keys)) for step in tables.funnel(run)]
    assert steps == [("self", 2, 0, 40), ("guided", 1, 40, 20), ("expert", 1, 60, 20), ("rejected", 1, 80, 20)]


def test_the_funnel_of_an_unfinished_run_counts_its_parts(tmp_path: Path) -> None:
    rows = [example(1, "self"), example(1, "self"), example(2, "guided")]  # one problem kept two responses
    write_rewriting(str(tmp_path), rows, finished=False, rows_per_part=3)
    dropped = {"problem_id": "p3", "question": "?", "answer": "1"}
    folder = Folder.at(str(tmp_path)) / "rewrite"
    write_part(folder, "part-00001.parquet", [], [dropped], {"dropped": 1})
    run = open_rounds(str(tmp_path))[0]
    assert {step["name"].split(":")[0]: step["count"] for step in tables.funnel(run)} == {
        "self": 1,
        "guided": 1,
        "expert": 0,
        "dropped": 1,
        "rejected": 1,
        "still to do": 4,
    }
    assert run.rewrite_counts["reasons"] == {"self": {"wrong": 3, "correct": 1}}, "each problem's attempts count once"


@pytest.mark.parametrize(
    "origin, source, figures",
    [
        # p is 1 and 1/2, twice: mean p 3/4, mean p² 5/8
        ("self", "kept response", {"tokens": 4, "perplexity": 2**0.5, "effective_sample_size": (3 / 4) ** 2 / (5 / 8)}),
        ("self", "expert's original", {"tokens": 4, "mean_logprob": -3.5}),
        ("guided", "kept response", {"tokens": 2, "perplexity": 2, "effective_sample_size": 1}),
        ("guided", "expert's original", {"tokens": 2, "mean_logprob": -4.5}),
        ("expert", "kept response", {"tokens": 2, "mean_logprob": -17, "effective_sample_size": 0.5}),
        ("all", "expert's original", {"tokens": 8, "mean_logprob": (-7 - 9 - 34 - 7) / 8}),
    ],
)
def test_policy_gap(run: RunFolder, origin: str, source: str, figures: dict[str, float]) -> None:
    rows = tables.gap_rows(tables.token_groups(run))
    [found] = [row for row in rows if (row["origin"], row["source"]) == (origin, source)]
    assert {key: found[key] for key in figures} == pytest.approx(figures)


def test_histogram_counts_every_token_once(run: RunFolder) -> None:
    counts = tables.token_groups(run)["expert", "kept"].histogram
    assert counts.sum() == 2
    assert [EDGES[bin] for bin in np.flatnonzero(counts)] == [-20.0, -4.0], "the first bin holds −30 too"


def test_a_round_next_to_others_has_the_figures_of_its_stages(tmp_path: Path) -> None:
    run = open_rounds(write_run(str(tmp_path)))[0]
    manifest = Folder.at(str(tmp_path)) / "rewrite"
    manifest.write_json("manifest.json", manifest.read_json("manifest.json") | {"copied": 3})
    assert tables.round_row(run, tables.gap_rows(tables.token_groups(run)), tables.problem_gaps(run)) == {
        "name": str(tmp_path),
        "kept": {"self": 2, "guided": 1, "expert": 1, "dropped": 0},
        "copied": 3,
        "gap": pytest.approx((2 * (-math.log(2) / 2 + 3.5) + 4.5 - math.log(2)) / 4),
        "mean_logprob": pytest.approx((-4 * math.log(2) - 34) / 8),
        "effective_sample_size": pytest.approx((4 + math.exp(-4)) ** 2 / (8 * (3 + math.exp(-8)))),
        "generated": 5600,
        "steps": 5,
        "accuracies": {"arithmetic": 0.5},
    }


def test_benchmarks_have_intervals_and_a_shared_base_model_is_listed_once(tmp_path: Path) -> None:
    runs = [open_rounds(write_run(str(tmp_path / name), trained=value))[0] for name, value in (("a", 0.5), ("b", 0.97))]
    rows = tables.benchmark_rows(tables.results_by_model(runs))
    assert [row["model"].split(" ")[0] for row in rows] == ["base", "trained", "trained"]
    assert [row["interval"] for row in rows] == [
        pytest.approx(each, abs=1e-5) for each in ((0.14995, 0.37430), (0.38775, 0.61225), (0.85508, 0.99892))
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
    ids=["all of the cluster's", "no gpu", "not recorded", "set by hand"],
)
def test_gpu_hours(run: RunFolder, changes: dict[str, Any], gpu_hours: dict[str, float | None]) -> None:
    run.config.update(changes)
    (run.folder / "evaluate").write_json("costs.json", {"seconds": 1800.0, "generated_tokens": 5})
    assert {row["stage"]: row["gpu_hours"] for row in tables.costs(run)} == pytest.approx(gpu_hours)


def test_the_cost_of_rewriting_includes_engine_starts(run: RunFolder) -> None:
    run.rewrite_manifest["phases"] = {"reading data": 100.0, "rewriting": 7200.0, "loading": 900.0}
    (rewriting,) = (row for row in tables.costs(run) if row["stage"] == "rewrite")
    assert rewriting["seconds"] == 7200.0 and rewriting["gpu_hours"] == pytest.approx(4.0)


def test_settings_that_differ_between_runs(tmp_path: Path) -> None:
    runs = [open_rounds(write_run(str(tmp_path / loss), loss=loss))[0] for loss in ("dft", "sft")]
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
def test_places_are_shared_evenly_and_all_are_filled(counts: tuple[int, ...], given: tuple[int, ...]) -> None:
    names = ("self", "guided", "expert")
    assert share_evenly(dict(zip(names, counts, strict=True)), 30) == dict(zip(names, given, strict=True))


def test_examples_are_bounded_in_number_and_bytes_and_spread_over_the_parts(tmp_path: Path) -> None:
    rows = [example(number, "self" if number % 10 else "expert", response="x" * 9_000) for number in range(100)]
    write_rewriting(str(tmp_path), rows, rows_per_part=20)
    run = open_rounds(str(tmp_path))[0]
    chosen = choose_examples(run, 20)
    assert chosen.num_shown == {"self": 10, "guided": 0, "expert": 10}
    assert chosen.num_all == {"self": 90, "guided": 0, "expert": 10}
    assert [row["problem_id"] for row in chosen.rows if row["origin"] == "expert"] == [
        f"p{n}" for n in range(0, 100, 10)
    ]
    assert chosen.rows[0]["response"].endswith("x… [3,000 more characters]")
    assert len(choose_examples(run, 20, max_bytes=30_000).rows) == 3  # about 8,000 each, with markup
