"""The cluster's live nodes, and tasks and actors that run on a given one."""

from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ossft_ray.common.errors import root_cause
from ossft_ray.distributed.placement import NodeCapacity

Answers = dict[str, Any]  # by node id
Failures = dict[str, str]  # by node id, the reason in one line


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


def ask_nodes(task: Any, arguments: dict[str, tuple[Any, ...]], timeout_seconds: float) -> tuple[Answers, Failures]:
    """Run a task on each node, with its arguments by node id; the task of a late node is cancelled."""
    calls = {on_node(task, node_id).remote(*given): node_id for node_id, given in arguments.items()}
    _, late = ray.wait(list(calls), num_returns=len(calls), timeout=timeout_seconds)
    answers, failures = {}, {}
    for call, node_id in calls.items():
        if call in late:
            ray.cancel(call, force=True)
            failures[node_id] = f"no answer within {timeout_seconds:.0f} s"
            continue
        try:
            answers[node_id] = ray.get(call)
        except RayError as error:
            failures[node_id] = root_cause(error)
    return answers, failures


def on_driver_node(actor_class: Any) -> Any:
    """A new actor on the driver's node, the only one that cannot be lost while the driver lives."""
    return on_node(actor_class, ray.get_runtime_context().get_node_id()).remote()
