"""The processes of workers and their engines, and waiting until they have exited.

The engine's processes end after their actor's, some time after Ray has released the actor. The next stage must not find
GPU memory still in use, so the driver waits on each node for the processes that its workers named.
"""

import time
from contextlib import suppress
from dataclasses import dataclass

import psutil
import ray
from ray.exceptions import NodeDiedError, TaskUnschedulableError, WorkerCrashedError

from ossft_ray.distributed.nodes import alive_nodes, on_node

_KILL_AFTER_SECONDS = 30.0
_CLOCK_SECONDS = 3.0  # start times count from the boot time, which moves a little when the clock is adjusted


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
    """Return when all of them have exited, by themselves or killed. Those of a lost node are gone already."""
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
