"""What remains of a pool of workers after a failed run, and waiting for processes on a lost node."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
import ray

from ossft_ray.common.errors import JobError
from ossft_ray.distributed import nodes
from ossft_ray.distributed.nodes import Processes, await_exit
from ossft_ray.stages.rewrite.stage import rewrite
from tests.stages import scripted
from tests.stages.scripted import ScriptedWorker, experiment

ray.cloudpickle.register_pickle_by_value(scripted)
pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_a_failed_run_leaves_no_worker(tmp_path: Path) -> None:
    """A worker that is still busy would keep its CPUs and its GPU's memory from whatever the caller does next."""

    class HangingWorker(ScriptedWorker):
        async def rewrite(self, problem: Any, *others: Any) -> Any:
            if problem.problem_id.endswith("0"):
                raise JobError("enough")
            await asyncio.sleep(3600)

    def all_cpus_are_free() -> bool:
        return ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"]

    with pytest.raises(JobError, match="enough"):
        rewrite(experiment(str(tmp_path / "run"), 40, resources={"num_policies": 2}), worker=HangingWorker)
    deadline = time.monotonic() + 20
    while not all_cpus_are_free():
        assert time.monotonic() < deadline, ray.available_resources()
        time.sleep(0.2)


def test_nothing_waits_for_processes_of_a_lost_node(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = "0" * 56
    monkeypatch.setattr(nodes, "alive_nodes", lambda: [{"NodeID": lost}])  # Ray notices the loss later
    await_exit([Processes(lost, {1: 0.0})])
