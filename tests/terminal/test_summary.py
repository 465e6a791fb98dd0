"""Base against trained model: the summary's figures against values worked out by hand."""

from pathlib import Path

import pytest
from rich.console import Console

from ossft_ray.common.schema import SAMPLE_SCHEMA, to_table
from ossft_ray.common.storage import Folder
from ossft_ray.stages.evaluate.accuracies import compare_models
from ossft_ray.terminal.summary import comparison_table


def write(folder: Folder, benchmark: str, correct: dict[str, list[bool]]) -> None:
    rows = [
        {"problem_id": name, "index": index, "correct": verdict, "extracted": "1", "finish_reason": "stop"}
        for name, verdicts in correct.items()
        for index, verdict in enumerate(verdicts)
    ]
    (folder / benchmark).write_table("part-00000.parquet", to_table(rows, SAMPLE_SCHEMA))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Folder, Folder]:
    base, trained = Folder.at(str(tmp_path / "base")), Folder.at(str(tmp_path / "trained"))
    write(base, "easy", {"a": [True, False], "b": [False, False]})
    write(trained, "easy", {"a": [True, True], "b": [True, False]})
    write(base, "hard", {"a": [False, False], "b": [False, False]})
    write(trained, "hard", {"a": [False, False], "b": [True, True]})
    return base, trained


def test_differences_are_paired_by_problem(folders: tuple[Folder, Folder]) -> None:
    found = compare_models(*folders, ["easy"])["easy"]
    # base means 0.5 and 0.0, trained 1.0 and 0.5: every problem gains 0.5, which two problems do not make certain
    assert (found["difference"], found["stderr"]) == (0.5, 0.0)
    assert found["low"] < 0 and found["high"] == 1
    assert set(compare_models(*folders, ["easy"])) == {"easy"}, "a single benchmark has no average"


def test_a_table_of_two_benchmarks_and_their_average(folders: tuple[Folder, Folder]) -> None:
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(comparison_table(*folders, ["easy", "hard"]))
    text = console.export_text()
    easy, hard, average = (line.split() for line in text.splitlines() if "+" in line)
    # two problems rule out next to nothing; the average's interval is narrower than either benchmark's
    assert easy == "easy 25.0 75.0 +50.0 -61.8 to +100.0 100.0".split()  # noqa: SIM905
    assert hard == "hard 0.0 50.0 +50.0 -61.8 to +100.0 100.0".split()  # noqa: SIM905
    assert average == "average 12.5 62.5 +50.0 -29.1 to +85.4 81.8".split()  # noqa: SIM905


def test_models_with_different_problems_are_not_compared(folders: tuple[Folder, Folder]) -> None:
    base, trained = folders
    write(trained, "easy", {"a": [True, True], "c": [True, False]})
    with pytest.raises(ValueError, match="different problems"):
        compare_models(base, trained, ["easy"])
