"""`ossft check --cluster`: is every node fit for the run? Each is asked about itself, then they work together once.

Nothing here waits for a free CPU, so it also works beside a run; the all-reduce takes the GPUs, where there are any.
"""

import platform
import shutil
import socket
import tempfile
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from ossft_ray.common.errors import InputError, brief
from ossft_ray.common.storage import Folder
from ossft_ray.config import Experiment, Policy
from ossft_ray.distributed.nodes import alive_nodes, on_node
from ossft_ray.distributed.session import start_ray
from ossft_ray.engines.all_reduce import all_reduce_seconds
from ossft_ray.engines.gpus import driver_gpus, torch_gpus
from ossft_ray.policy.location import model_digest
from ossft_ray.policy.model_access import model_refusal
from ossft_ray.run_folder.provenance import package_versions
from ossft_ray.stages.check.node_checks import ClusterFindings, Node, find_problems
from ossft_ray.stages.evaluate.models import other_models

_MARKERS = ".check"  # sub-folder of the run's, for a moment
_LOOK_SECONDS = 180.0  # a node's first task imports torch and transformers
_REDUCE_SECONDS = 120.0
_REDUCE_BYTES = 64 << 20
_CLEAR_SECONDS = 30.0
_CLOCK_TRIES = 5


def check_cluster(experiment: Experiment, verbose: bool = False) -> ClusterFindings:
    """Try every node of the cluster that `RAY_ADDRESS` names, else this machine.

    Raises:
        InputError: the cluster cannot be used at all for this run.
    """
    try:
        start_ray(experiment, verbose)
    except OSError as error:  # it notes the machines in the run's folder
        raise InputError(f"[run] output: {brief(error)}; choose one that can be written to") from error
    alive = alive_nodes()
    folder, token = Folder.at(experiment.run.output) / _MARKERS, uuid.uuid4().hex
    policies = [experiment.policy, *(other.policy for other in other_models(experiment).values())]
    problems: list[str] = []
    try:
        seen = _on_each(_look, alive, problems, folder, token, policies, experiment.run.output)
        answering = [node for node in alive if node["NodeID"] in seen]
        with_markers = _with_markers(seen, answering, folder, token, problems)
        nodes = [_with_clock(node, node_id) for node_id, node in with_markers.items()]
    finally:
        clearing = [on_node(_clear, node["NodeID"]).remote(folder) for node in alive]
        ray.wait(clearing, num_returns=len(clearing), timeout=_CLEAR_SECONDS)
    problems += find_problems(nodes, _versions(), _digest(policies), experiment.run.output)
    remarks = []
    try:
        if answering:
            remarks.append(_all_reduce(answering))
    except (RayError, GetTimeoutError) as error:
        problems.append(_reduce_failure(error))
    return ClusterFindings(nodes, problems, remarks)


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **package_versions()}


def _digest(policies: list[Policy]) -> str:
    try:
        return " ".join(map(model_digest, policies))
    except (InputError, OSError):
        return ""  # why is said by the look at it


def _on_each(task: Any, nodes: list[dict[str, Any]], problems: list[str], *arguments: Any) -> dict[str, Any]:
    """A task's results by node id; a node that gives none becomes a problem."""
    calls = {node["NodeID"]: on_node(task, node["NodeID"]).remote(node, *arguments) for node in nodes}
    deadline, results = time.monotonic() + _LOOK_SECONDS, {}
    for node in nodes:
        try:
            results[node["NodeID"]] = ray.get(calls[node["NodeID"]], timeout=max(1.0, deadline - time.monotonic()))
        except GetTimeoutError:
            ray.cancel(calls[node["NodeID"]], force=True)
            problems.append(
                f"{_place(node)}: no answer within {_LOOK_SECONDS:.0f} seconds; see `ray status`, and whether its "
                "disks and the shared folder hang"
            )
        except RayError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            problems.append(
                f"{_place(node)}: a task failed: {lines[-1] if lines else type(error).__name__}; "
                "see that it has the same environment as the driver"
            )
    return results


def _place(node: dict[str, Any]) -> str:
    return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"


@ray.remote(num_cpus=0, max_retries=0)
def _look(node: dict[str, Any], folder: Folder, token: str, policies: list[Policy], output: str) -> Node:
    """What this node has to say of itself; leaves a marker in the run's folder."""
    gpus, torch_sees, resources = driver_gpus(), torch_gpus(), node["Resources"]
    refusal = None
    try:
        folder.write_bytes(node["NodeID"], token.encode())
    except OSError as error:
        refusal = brief(error)
    # .../session_.../sockets/plasma_store
    ray_tmp = shutil.disk_usage(Path(node["ObjectStoreSocketName"]).parent)
    parent = Path(Folder.at(output).path)
    is_local = folder.local_path is not None
    return Node(
        host=socket.gethostname(),
        address=node["NodeManagerAddress"],
        versions=_versions(),
        ray_cpus=resources.get("CPU", 0.0),
        ray_gpus=resources.get("GPU", 0.0),
        driver_gpus=[gpu.name for gpu in gpus],
        gpu_driver=gpus[0].driver if gpus else None,
        torch_gpus=torch_sees["gpus"],
        torch_error=torch_sees["error"],
        cuda=torch_sees["cuda"],
        output_refusal=refusal,
        output_free=shutil.disk_usage(parent).free if is_local and parent.exists() else None,
        tmp_free=shutil.disk_usage(tempfile.gettempdir()).free,
        ray_tmp_free=ray_tmp.free,
        ray_tmp_share=ray_tmp.free / ray_tmp.total,
        shm_bytes=shutil.disk_usage("/dev/shm").total,
        object_store_bytes=int(resources.get("object_store_memory", 0)),
        policy_refusal=next(filter(None, map(model_refusal, policies)), None),
        policy_digest=_digest(policies),
    )


@ray.remote(num_cpus=0, max_retries=0)
def _read_markers(node: dict[str, Any], folder: Folder, token: str, others: list[str]) -> list[str]:
    """The ids of those nodes whose markers are not seen here."""
    unseen = []
    for other in others:
        try:
            if folder.read_bytes(other).decode() != token:
                unseen.append(other)
        except OSError:
            unseen.append(other)
    return unseen


def _with_markers(
    seen: dict[str, Node], nodes: list[dict[str, Any]], folder: Folder, token: str, problems: list[str]
) -> dict[str, Node]:
    """The nodes, each with the hosts whose marker it does not see."""
    wrote = [node_id for node_id, node in seen.items() if node.output_refusal is None]
    unseen = _on_each(_read_markers, nodes, problems, folder, token, wrote)
    return {
        node_id: replace(node, unseen=[seen[other].name for other in unseen.get(node_id, [])])
        for node_id, node in seen.items()
    }


@ray.remote(num_cpus=0, max_retries=0)
def _clear(folder: Folder) -> None:
    folder.delete()


@ray.remote(num_cpus=0, max_retries=0)
def _now() -> float:
    return time.time()


def _with_clock(node: Node, node_id: str) -> Node:
    """The node with its clock's offset from ours, by the quickest of some exchanges (Cristian 1989)."""
    exchanges = []
    for _ in range(_CLOCK_TRIES):
        began = time.time()
        there = ray.get(on_node(_now, node_id).remote(), timeout=_LOOK_SECONDS)
        ended = time.time()
        exchanges.append((ended - began, there - (began + ended) / 2))
    trip, offset = min(exchanges)
    return replace(node, clock_offset_seconds=offset, clock_error_seconds=trip / 2)


@ray.remote(num_cpus=0)
class _Reducer:
    """One process of the all-reduce."""

    def address(self) -> str:
        """HOST:PORT of this node, free just now."""
        with socket.socket() as free:
            free.bind(("", 0))
            return f"{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"

    def reduce(self, rank: int, num_workers: int, address: str) -> float:
        return all_reduce_seconds(rank, num_workers, address, _REDUCE_BYTES, _REDUCE_SECONDS / 2)


def _all_reduce(nodes: list[dict[str, Any]]) -> str:
    """One all-reduce over all GPUs, or over all nodes where there are none; says how long it took."""
    gpus = {node["NodeID"]: int(node["Resources"].get("GPU", 0)) for node in nodes}
    has_gpus = any(gpus.values())
    ranks = [node_id for node_id, num in gpus.items() for _ in range(num if has_gpus else 1)]
    reducers = [on_node(_Reducer, node_id, num_gpus=1 if has_gpus else 0).remote() for node_id in ranks]
    try:
        address = ray.get(reducers[0].address.remote(), timeout=_REDUCE_SECONDS)
        calls = [reducer.reduce.remote(rank, len(ranks), address) for rank, reducer in enumerate(reducers)]
        seconds = max(ray.get(calls, timeout=_REDUCE_SECONDS))
    finally:
        for reducer in reducers:
            ray.kill(reducer)
    unit = "GPU" if has_gpus else "node"
    if len(ranks) == 1:
        return f"all-reduce on a single {unit}: it works, and nothing had to be sent"
    # each process sends and receives 2 (n - 1) / n times the tensor
    rate = 2 * (len(ranks) - 1) / len(ranks) * _REDUCE_BYTES / seconds
    return (
        f"all-reduce of {_REDUCE_BYTES >> 20} MiB over {len(ranks)} {unit}s: {seconds:.3f} s, "
        f"{rate / 1e9:.2f} GB/s for each"
    )


def _reduce_failure(error: Exception) -> str:
    mend = (
        "open all ports between the nodes, and name their network interface in GLOO_SOCKET_IFNAME and "
        "NCCL_SOCKET_IFNAME"
    )
    if isinstance(error, GetTimeoutError):
        return f"all-reduce: not done within {_REDUCE_SECONDS:.0f} seconds: GPUs are in use by others, or {mend}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"all-reduce: {lines[-1] if lines else type(error).__name__}; {mend}"
