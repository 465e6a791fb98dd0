"""A program: rewriting and a training group on several Ray nodes with simulated GPUs. `on_many_nodes.py FOLDER`

The last line is a JSON object: the nodes on which policies worked, and the node of each rank of the training group.
"""

import asyncio
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from ossft_ray.common.storage import Folder
from ossft_ray.distributed.train_group import run_group
from ossft_ray.stages.rewrite.stage import rewrite
from tests.stages.scripted import ScriptedWorker, experiment

NUM_PROBLEMS = 160  # ten parts
PATIENCE_SECONDS = 120.0


class WaitingWorker(ScriptedWorker):
    """Waits until the third node works too: it must find parts left, however long it takes to start."""

    async def process(self, part: str) -> None:
        seen = Path(self.experiment.run.output) / "seen"
        seen.mkdir(exist_ok=True)
        (seen / ray.get_runtime_context().get_node_id()).touch()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(list(seen.iterdir())) < 3 and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        await super().process(part)


def note_rank(config: dict[str, Any]) -> None:
    rank, node = ray.train.get_context().get_world_rank(), ray.get_runtime_context().get_node_id()
    (Path(config["folder"]) / str(rank)).write_text(node)


def main(folder: Path) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=2, num_gpus=1) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)
    settings = experiment(str(folder / "run"), NUM_PROBLEMS, resources={"problems_in_flight": 16})
    seen = folder / "run/seen"

    with ThreadPoolExecutor() as threads:  # Ray adds nodes in the main thread only
        rewriting = threads.submit(rewrite, settings, worker=WaitingWorker)
        while len(list(seen.glob("*"))) < 2 and not rewriting.done():
            time.sleep(0.2)
        nodes.append(cluster.add_node(num_cpus=2, num_gpus=1))
        manifest = rewriting.result()

    ranks = folder / "ranks"
    ranks.mkdir()
    on_cpus = experiment(
        str(folder / "run"), NUM_PROBLEMS, resources={"num_train_workers": 5, "gpus_per_train_worker": 0}
    )
    run_group(
        note_rank,
        {"folder": str(ranks)},
        on_cpus,
        Folder.at(str(folder / "train")),
        "workers",
        lambda: None,
        lambda: None,
    )
    result = {
        "nodes": [node.node_id for node in nodes],
        "head": cluster.head_node.node_id,
        "policies": sorted(path.name for path in seen.iterdir()),
        "problems": manifest["problems"],
        "ranks": [(ranks / str(rank)).read_text() for rank in range(5)],
    }
    ray.shutdown()
    cluster.shutdown()
    print("\n" + json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
