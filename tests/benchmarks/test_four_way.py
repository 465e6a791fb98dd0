"""Intervals of the four-way experiment: against values worked out by hand, and against simulation."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import four_way
from fourway.lab import Size
from fourway.statistics import Estimate, estimate, student_quantile

from ossft_ray.common.storage import Folder


@pytest.mark.parametrize("freedom, expected", [(1, 12.706), (2, 4.303), (5, 2.571), (30, 2.042), (10_000, 1.960)])
def test_student_quantile(freedom: float, expected: float) -> None:
    assert student_quantile(freedom) == pytest.approx(expected, abs=2e-3)


def test_one_seed_counts_problems_alone() -> None:
    values_SLP = np.array([[[0.0, 0.5, 1.0, 0.5]]])
    error = np.std([0.0, 0.5, 1.0, 0.5], ddof=1) / 2
    assert estimate(values_SLP) == Estimate(0.5, pytest.approx(3.182 * error, rel=1e-3))


@pytest.mark.parametrize("seed_deviation, problem_deviation", [(0.1, 0.3), (0.3, 0.1), (0.0, 0.3), (0.2, 0.0)])
def test_intervals_cover(seed_deviation: float, problem_deviation: float) -> None:
    """The true mean, 0, lies in about 95% of the intervals, whichever varies more; 90% where little is averaged."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        values_SLP = rng.normal(0, seed_deviation, (3, 1, 1)) + rng.normal(0, problem_deviation, (1, 2, 20))
        values_SLP = values_SLP + rng.normal(0, 0.1, (3, 2, 20))
        covered.append(not estimate(values_SLP).is_clear)
    assert np.mean(covered) > 0.9


@pytest.mark.parametrize("seed_deviation, problem_deviation", [(0.02, 0.3), (0.1, 0.3), (0.3, 0.1), (0.02, 0.05)])
def test_two_seeds_cover_with_a_wider_interval(seed_deviation: float, problem_deviation: float) -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(1000):
        values_SLP = rng.normal(0, seed_deviation, (2, 1, 1)) + rng.normal(0, problem_deviation, (1, 2, 40))
        covered.append(not estimate(values_SLP + rng.normal(0, 0.1, (2, 2, 40))).is_clear)
    assert np.mean(covered) >= 0.93


def test_values_that_are_all_the_same_are_not_certain() -> None:
    found = estimate(np.full((3, 2, 30), 0.5))
    assert found.mean == 0.5 and found.half_width is not None and 0.05 < found.half_width < 0.2


def scores(accuracy: float, num_samples: int) -> dict[str, dict[str, dict[str, list]]]:
    right = round(accuracy * num_samples)
    answers = {"correct": [True] * right + [False] * (num_samples - right), "tokens": [10] * num_samples}
    return {f"level{level}": {f"{level}-{index}": answers for index in range(4)} for level in range(1, 6)}


def test_page_says_what_was_not_run_and_keeps_what_is_written_around(tmp_path: Path) -> None:
    folder = Folder.at(str(tmp_path / "work"))
    (folder / "scores").write_json("base.json", scores(0.5, 16))
    (folder / "scores").write_json("expert-sft-seed0.json", scores(0.25, 8))
    (folder / "scores").write_json("dr-dft-seed0.json", scores(1.0, 8))
    (folder / "tuned").write_json("dr-dft.json", {"rate": 0.001, "accuracy": {"0.0001": 0.1, "0.001": 0.2}})
    lines, figures = four_way.tables(folder, Size(), 3)
    assert figures["base"]["accuracy"] == 0.5 and figures["DR+DFT"] == {"seeds": 1, "accuracy": 1.0}
    assert "| DFT | not run | | | | | | |" in lines
    assert any(line.startswith("| DR+DFT − SFT | 1 | +75.0") and line.endswith("* |") for line in lines)
    assert "| DR+DFT | 10.0 | 20.0 | 0.001 (edge) |" in lines

    page = tmp_path / "page.md"
    page.write_text(f"# Title\n\nBefore.\n\n{four_way.BEGIN}\nold\n{four_way.END}\nAfter.\n")
    four_way.write_page(page, ["new"])
    once = page.read_text()
    assert "old" not in once and "Before." in once and "After." in once
    four_way.write_page(page, ["new"])
    assert page.read_text() == once
