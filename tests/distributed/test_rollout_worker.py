"""A pool of workers: what is left of it when a plan fails, and when a node dies at the very end."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
import ray

from ossft_ray.common.errors import JobError
from ossft_ray.distributed import processes
from ossft_ray.distributed.processes import Processes, await_ends
from ossft_ray.stages.rewrite.stage import rewrite
from tests.stages import scripted
from tests.stages.scripted import ScriptedWorker, experiment

ray.cloudpickle.register_pickle_by_value(scripted)
pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_a_failed_plan_leaves_no_worker(tmp_path: Path) -> None:
    """One that still works on its parts would keep its CPUs, and a GPU's memory, from what the caller does next."""

    class Stuck(ScriptedWorker):
        async def rewrite(self, problem: Any, *others: Any) -> Any:
            if problem.problem_id.endswith("0"):
                raise JobError("enough")
            await asyncio.sleep(3600)

    def idle() -> bool:
        return ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"]

    with pytest.raises(JobError, match="enough"):
        rewrite(experiment(str(tmp_path / "run"), 40, resources={"num_policies": 2}), worker=Stuck)
    deadline = time.monotonic() + 20
    while not idle():
        assert time.monotonic() < deadline, ray.available_resources()
        time.sleep(0.2)


def test_a_node_that_dies_at_the_end_has_taken_its_processes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = "0" * 56
    monkeypatch.setattr(processes, "alive_nodes", lambda: [{"NodeID": lost}])
    await_ends([Processes(lost, {1: 0.0})])
