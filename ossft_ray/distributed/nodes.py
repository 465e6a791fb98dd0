"""The cluster's live nodes, and tasks and actors that run on a given one."""

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ossft_ray.distributed.placement import NodeCapacity


def alive_nodes() -> list[dict[str, Any]]:
    """The live nodes, each as `ray.nodes` describes it."""
    return [node for node in ray.nodes() if node["Alive"]]


def node_name(node: dict[str, Any]) -> str:
    """A node of `alive_nodes` in messages: several nodes may run on one host, so part of the id is in it."""
    return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}, {node['NodeID'][:6]})"


def node_capacities() -> list[NodeCapacity]:
    """What each live node holds. A head that was started with `--num-cpus=0` holds nothing."""
    resources = (node["Resources"] for node in alive_nodes())
    return [NodeCapacity(has.get("GPU", 0), has.get("CPU", 0)) for has in resources]


def on_node(remote: Any, node_id: str, **options: Any) -> Any:
    """The task or actor class bound to a node: if the node is lost, it fails instead of running elsewhere."""
    return remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False), **options)


def on_driver_node(actor_class: Any) -> Any:
    """A new actor on the driver's node, the only one that cannot be lost while the driver lives."""
    return on_node(actor_class, ray.get_runtime_context().get_node_id()).remote()
