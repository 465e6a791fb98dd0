"""A stage continues with fewer actors when the cluster stays too small for its plan."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ossft_ray.common.errors import JobError
from ossft_ray.config import Resources
from ossft_ray.distributed.placement import NodeCapacity
from ossft_ray.distributed.replanning import CapacityWatch, InsufficientCapacity, replanned
from ossft_ray.run_folder.resolved_run import Run
from tests.distributed.shrinking_cluster import NUM_PROBLEMS
from tests.stages.scripted import experiment, rows_by_id

NODE = NodeCapacity(gpus=2, cpus=8)


@pytest.mark.parametrize(
    "nodes_seen, raised_at",
    [
        ([[NODE, NODE]] * 20, None),
        ([[NODE, NODE]] * 2 + [[NODE]] * 18, 90.0),
        ([[NODE, NODE]] * 2 + [[NODE]] * 3 + [[NODE, NODE]] + [[NODE]] * 14, 130.0),
    ],
    ids=["no node is lost", "one is lost", "one returns and is lost again"],
)
def test_capacity_is_insufficient_when_patience_runs_out(nodes_seen: list[Any], raised_at: float | None) -> None:
    """Polled every ten seconds, with a patience of a minute."""
    now, answers = [0.0], iter(nodes_seen)
    resources = Resources(replan_after="1m")
    capacity = CapacityWatch("num_policies", 1, 1, resources, lambda: next(answers), lambda: now[0])
    stopped_at = None
    for _ in nodes_seen:
        now[0] += 10
        try:
            capacity.poll(4)
        except InsufficientCapacity:
            stopped_at = now[0]
            break
    assert stopped_at == raised_at


def test_a_stage_runs_again_with_fewer_policies(tmp_path: Path) -> None:
    calls = []

    @replanned
    def stage(run: Any, on_progress: Any, start_over: bool, verbose: bool) -> str:
        calls.append((Run.of(run).experiment.resources.num_policies, start_over))
        if len(calls) < 3:
            raise InsufficientCapacity("num_policies", 8 // len(calls), 4 // len(calls))
        return "done"

    assert stage(experiment(str(tmp_path / "run"), resources={"num_policies": 8}), start_over=True) == "done"
    assert calls == [(8, True), (4, False), (2, False)], "it starts over only once"


def test_a_stage_fails_when_no_node_is_left(tmp_path: Path) -> None:
    @replanned
    def stage(*_: Any) -> None:
        raise InsufficientCapacity("num_train_workers", 8, 0)

    with pytest.raises(JobError, match="the cluster now holds 0 of 8 train workers; run the same command again when"):
        stage(experiment(str(tmp_path / "run")))


@pytest.mark.long
@pytest.mark.timeout(180)
def test_rewriting_finishes_after_one_of_two_full_nodes_is_lost(tmp_path: Path) -> None:
    program = Path(__file__).with_name("shrinking_cluster.py")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_ADDRESS")}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, program, tmp_path], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a node was lost: the cluster now holds 1 of 2 policies; continuing with 1" in done.stderr
    rows = rows_by_id(experiment(str(tmp_path / "run"), NUM_PROBLEMS))
    assert len(rows) == NUM_PROBLEMS and {len(of_problem) for of_problem in rows.values()} == {1}
