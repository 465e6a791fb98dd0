"""A program: rewriting on two Ray nodes of one CPU each, one of which is lost. `shrinking_cluster.py FOLDER`"""

import asyncio
import os
import sys
from typing import Any

import ray
from ray.cluster_utils import Cluster

from ossft_ray.stages.rewrite.stage import rewrite
from tests.stages.scripted import ScriptedPolicy, ScriptedWorker, experiment

NUM_PROBLEMS = 60


class SlowPolicy(ScriptedPolicy):
    async def sample(self, *arguments: Any) -> Any:
        await asyncio.sleep(1)  # the rest takes longer than `replan_after`, even on a fast machine
        return await super().sample(*arguments)


class SlowWorker(ScriptedWorker):
    def start_policy(self) -> Any:
        return SlowPolicy()


def main(folder: str) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    os.environ["RAY_ADDRESS"] = cluster.address
    resources = {"num_policies": 2, "problems_in_flight": 4, "replan_after": "6s"}
    settings = experiment(f"{folder}/run", NUM_PROBLEMS, resources=resources)

    def watch(totals: dict[str, int]) -> None:
        nonlocal node
        if node is not None and totals.get("policies") == 2 and totals.get("problems", 0) > 10:
            cluster.remove_node(node, allow_graceful=False)
            node = None

    rewrite(settings, watch, worker=SlowWorker)
    assert node is None, "rewriting ended before the node was removed"
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
