"""Base against trained model: the summary's figures against hand-computed ones."""

import math
from pathlib import Path

import pytest
from rich.console import Console

from ossft_ray.schema import SAMPLE, to_table
from ossft_ray.storage import Folder
from ossft_ray.summary import compare, comparison_table


def write(folder: Folder, benchmark: str, correct: dict[str, list[bool]]) -> None:
    rows = [
        {"problem_id": name, "index": index, "correct": verdict}
        for name, verdicts in correct.items()
        for index, verdict in enumerate(verdicts)
    ]
    (folder / benchmark).write_table("part-00000.parquet", to_table(rows, SAMPLE))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Folder, Folder]:
    base, trained = Folder.at(str(tmp_path / "base")), Folder.at(str(tmp_path / "trained"))
    write(base, "easy", {"a": [True, False], "b": [False, False]})
    write(trained, "easy", {"a": [True, True], "b": [True, False]})
    write(base, "hard", {"a": [False, False], "b": [False, False]})
    write(trained, "hard", {"a": [False, False], "b": [True, True]})
    return base, trained


def test_differences_are_paired_by_problem(folders: tuple[Folder, Folder]) -> None:
    row = compare(*folders, "easy")
    # base means 0.5 and 0.0, trained 1.0 and 0.5: every problem gains 0.5, so that difference has no error
    assert (row["base"], row["trained"], row["difference"]) == (0.25, 0.75, 0.5)
    assert row["base_error"] == pytest.approx(math.sqrt(0.125) / math.sqrt(2))
    assert row["difference_error"] == 0.0


def test_average_combines_independent_benchmarks(folders: tuple[Folder, Folder]) -> None:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(comparison_table(*folders, ["easy", "hard"], num_samples=2))
    (average,) = [line for line in console.export_text().splitlines() if line.startswith("average")]
    # hard: differences 0 and 1, mean 0.5, error 0.5; the mean of 0 and 0.5 in quadrature is 0.25
    assert average.split() == "average 12.5 ± 12.5 62.5 ± 28.0 +50.0 ± 25.0".split()  # noqa: SIM905


def test_models_scored_on_different_problems_are_not_compared(folders: tuple[Folder, Folder]) -> None:
    base, trained = folders
    write(trained, "easy", {"a": [True, True], "c": [True, False]})
    with pytest.raises(ValueError, match="different problems"):
        compare(base, trained, "easy")
