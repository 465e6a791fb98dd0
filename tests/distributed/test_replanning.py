"""A cluster that has become too small for the plan."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ossft_ray.common.errors import JobError
from ossft_ray.distributed.placement import Node
from ossft_ray.distributed.replanning import NoRoom, Room, replanned
from tests.stages.scripted import experiment, rows_by_id

TWO = Node(gpus=2, cpus=8)


@pytest.mark.parametrize(
    "seen, raised_at",
    [
        ([[TWO, TWO]] * 20, None),
        ([[TWO, TWO]] * 2 + [[TWO]] * 18, 90.0),
        ([[TWO, TWO]] * 2 + [[TWO]] * 3 + [[TWO, TWO]] + [[TWO]] * 14, 130.0),
    ],
    ids=["all there", "one stays away", "it comes back and goes again"],
)
def test_patience(tmp_path: Path, seen: list[Any], raised_at: float | None) -> None:
    """Asked every ten seconds, with a minute's patience."""
    now, answers = [0.0], iter(seen)
    settings = experiment(str(tmp_path / "run"), resources={"replan_after": "1m"})
    room = Room("num_policies", 1, 1, settings, lambda: next(answers), lambda: now[0])
    stopped_at = None
    for _ in seen:
        now[0] += 10
        try:
            room.poll(4)
        except NoRoom:
            stopped_at = now[0]
            break
    assert stopped_at == raised_at


def test_a_stage_begins_again_smaller(tmp_path: Path) -> None:
    calls = []

    @replanned
    def stage(settings: Any, on_progress: Any, start_over: bool, verbose: bool) -> str:
        calls.append((settings.resources.num_policies, start_over))
        if len(calls) < 3:
            raise NoRoom("num_policies", 8 // len(calls), 4 // len(calls))
        return "done"

    assert stage(experiment(str(tmp_path / "run"), resources={"num_policies": 8}), start_over=True) == "done"
    assert calls == [(8, True), (4, False), (2, False)], "what was made is not discarded again"


def test_nothing_left(tmp_path: Path) -> None:
    @replanned
    def stage(*_: Any) -> None:
        raise NoRoom("num_train_workers", 8, 0)

    with pytest.raises(JobError, match="of 8 train workers the cluster can hold 0; the same command goes on when"):
        stage(experiment(str(tmp_path / "run")))


@pytest.mark.long
@pytest.mark.timeout(180)
def test_a_node_goes_for_good(tmp_path: Path) -> None:
    """Two nodes that are full, one of which dies: the other does all the rest."""
    program = Path(__file__).with_name("shrinking_cluster.py")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_ADDRESS")}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, program, tmp_path], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a node was lost: of 2 policies the cluster can hold 1; going on with those" in done.stderr
    rows = rows_by_id(experiment(str(tmp_path / "run"), 100))
    assert len(rows) == 100 and {len(of_problem) for of_problem in rows.values()} == {1}
