"""The headline's figures, and what a run does not have yet."""

import math
from pathlib import Path
from typing import Any

import pytest

from ossft_ray.common.storage import Folder
from ossft_ray.report.headline import headline
from ossft_ray.report.tables import problem_gaps
from ossft_ray.run_folder.reader import open_rounds
from tests.report.runs import difference, example, score, write_rewriting, write_run


def headline_of(output: str) -> dict[str, Any]:
    run = open_rounds(output)[0]
    return headline(run, problem_gaps(run))


def test_a_finished_run(tmp_path: Path) -> None:
    found = headline_of(write_run(str(tmp_path)))
    assert found["kept"] == {"self": 0.5, "guided": 0.25, "expert": 0.25}
    # per response: −3.5, −4.5, −17 and −3.5 before; −0.35, −0.69, −17 and −0.35 after
    assert found["gap"]["before"] == pytest.approx((-3.5 - 4.5 - 17 - 3.5) / 4)
    assert found["gap"]["after"] == pytest.approx(-(math.log(2) / 2 + math.log(2) + 17 + math.log(2) / 2) / 4)
    assert (found["gap"]["origin"], found["gap"]["problems"]) == ("all", 4)
    gain = {name: found["gain"][name] for name in ("difference", "low", "before", "after", "benchmark")}
    assert gain == {"difference": 0.25, "low": 0.1, "before": 0.25, "after": 0.5, "benchmark": "arithmetic"}
    assert (found["data"], found["num_problems"], found["model"], found["loss"]) == (
        "train.jsonl",
        4,
        "playground",
        "dft",
    )
    assert found["date"].split()[-1].isdigit()


def test_several_benchmarks_are_averaged(tmp_path: Path) -> None:
    run = write_run(str(tmp_path))
    folder = Folder.at(run) / "evaluate"
    folder.write_json(
        "scores.json", {name: {"a": score(at), "b": score(at + 0.1)} for name, at in (("base", 0.2), ("trained", 0.4))}
    )
    folder.write_json(
        "differences.json", {"trained": {"a": difference(), "b": difference(), "average": difference(0.2)}}
    )
    gain = headline_of(run)["gain"]
    assert (gain["num_benchmarks"], gain["low"]) == (2, 0.2)
    assert (gain["before"], gain["after"]) == pytest.approx((0.25, 0.45))


def test_a_run_in_progress_has_only_its_figures_so_far(tmp_path: Path) -> None:
    write_rewriting(str(tmp_path), [example(0, "self"), example(1, "self")], finished=False)
    found = headline_of(str(tmp_path))
    assert found["kept"] == {"self": 1.0}
    assert [found[name] for name in ("gap", "gain", "data", "model", "date")] == [None] * 5
