"""The files of `ossft demo`."""

from pathlib import Path

from ossft_ray.playground.demo import write_demo


def test_the_demo_has_as_many_problems_as_asked_for(tmp_path: Path) -> None:
    experiment = write_demo(str(tmp_path / "demo"), num_problems=7)
    assert Path(experiment.data.path).read_text().count("\n") == 7
    assert write_demo(str(tmp_path / "demo"), num_problems=9) == experiment
    assert Path(experiment.data.path).read_text().count("\n") == 7, "a started demo is resumed"
