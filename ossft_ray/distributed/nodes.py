"""Which nodes of the cluster live, and how does something run on one of them and nowhere else?"""

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def alive_nodes() -> list[dict[str, Any]]:
    """As `ray.nodes` describes them."""
    return [node for node in ray.nodes() if node["Alive"]]


def on_node(remote: Any, node_id: str, **options: Any) -> Any:
    """The task or actor class with its place: it fails where the node is lost, rather than run elsewhere."""
    return remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False), **options)
