"""A worker's processes, the engine's among them, and seeing to it that they are gone when a stage ends.

An actor's process takes its engine's with it, but some time after Ray has given the actor up. The next stage must not
find a GPU's memory still taken, so the driver waits, on each node, for the processes that its workers named.
"""

import time
from contextlib import suppress
from dataclasses import dataclass

import psutil
import ray
from ray.exceptions import NodeDiedError, TaskUnschedulableError, WorkerCrashedError

from ossft_ray.distributed.nodes import alive_nodes, on_node

_PATIENCE_SECONDS = 30.0  # then they are killed
_CLOCK_SECONDS = 3.0  # start times are counted from the boot time, which moves a little as the clock is set


@dataclass(frozen=True)
class Processes:
    """Processes on one node, each with its start time, since a process id may be used again."""

    node_id: str
    started: dict[int, float]


def own_processes() -> Processes:
    """This process and all below it."""
    this = psutil.Process()
    started = {process.pid: process.create_time() for process in [this, *this.children(recursive=True)]}
    return Processes(ray.get_runtime_context().get_node_id(), started)


def await_ends(groups: list[Processes]) -> None:
    """Return when all of them are gone; a node that has died has taken its own along."""
    alive = {node["NodeID"] for node in alive_nodes()}
    waits = [
        on_node(_await_ends_here, group.node_id).remote(group.started, _PATIENCE_SECONDS)
        for group in groups
        if group.node_id in alive
    ]
    for wait in waits:
        with suppress(TaskUnschedulableError, NodeDiedError, WorkerCrashedError):  # it has died just now
            ray.get(wait)


@ray.remote(num_cpus=0)
def _await_ends_here(started: dict[int, float], patience_seconds: float) -> None:
    deadline = time.monotonic() + patience_seconds
    while left := [process for pid, start in started.items() if (process := _find(pid, start))]:
        if time.monotonic() > deadline:
            for process in left:
                process.kill()
            deadline = float("inf")
        time.sleep(0.05)


def _find(pid: int, start: float) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        is_it = abs(process.create_time() - start) < _CLOCK_SECONDS and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if is_it else None
