"""The cluster's live nodes, running tasks and actors on a given node, and waiting for its processes to exit.

An engine's processes end after their actor's, some time after Ray has released the actor. The next stage must not find
GPU memory still in use, so the driver waits on each node for the processes that its workers named.
"""

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil
import ray
from ray.exceptions import NodeDiedError, RayError, TaskUnschedulableError, WorkerCrashedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ossft_ray.common.errors import root_cause
from ossft_ray.distributed.placement import NodeCapacity

Answers = dict[str, Any]  # by node id
Failures = dict[str, str]  # by node id, the reason in one line

_KILL_AFTER_SECONDS = 30.0
_CLOCK_SECONDS = 3.0  # start times count from the boot time, which moves a little when the clock is adjusted


def alive_nodes() -> list[dict[str, Any]]:
    """The live nodes, each as `ray.nodes` describes it."""
    return [node for node in ray.nodes() if node["Alive"]]


def node_name(node: dict[str, Any]) -> str:
    """The name of a node in messages, with part of its id, because several nodes may run on one host."""
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


@dataclass(frozen=True)
class Processes:
    """Processes on one node: start times by process id, since ids are reused."""

    node_id: str
    started: dict[int, float]


def current_processes() -> Processes:
    """This process and its descendants."""
    this = psutil.Process()
    started = {process.pid: process.create_time() for process in [this, *this.children(recursive=True)]}
    return Processes(ray.get_runtime_context().get_node_id(), started)


def await_exit(groups: list[Processes]) -> None:
    """Return when all these processes have exited or been killed. Those of a lost node are gone already."""
    alive = {node["NodeID"] for node in alive_nodes()}
    waits = [
        on_node(_await_exit_here, group.node_id).remote(group.started) for group in groups if group.node_id in alive
    ]
    for wait in waits:
        with suppress(TaskUnschedulableError, NodeDiedError, WorkerCrashedError):  # the node was lost just now
            ray.get(wait)


@ray.remote(num_cpus=0)
def _await_exit_here(started: dict[int, float]) -> None:
    deadline = time.monotonic() + _KILL_AFTER_SECONDS
    while running := [process for pid, start in started.items() if (process := _find(pid, start))]:
        if time.monotonic() > deadline:
            for process in running:
                process.kill()
            deadline = float("inf")
        time.sleep(0.05)


def _find(pid: int, start: float) -> psutil.Process | None:
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        if abs(process.create_time() - start) < _CLOCK_SECONDS and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None
