"""`ossft check --cluster`: every node reports on itself, then all nodes work together in one all-reduce.

The tasks ask for no CPUs, so the check also works next to a run. The all-reduce takes all GPUs, if there are any.
"""

import platform
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from ossft_ray.common.errors import InputError, brief, root_cause
from ossft_ray.common.storage import Folder
from ossft_ray.config import Policy
from ossft_ray.distributed.nodes import alive_nodes, ask_nodes, node_name, on_node
from ossft_ray.distributed.resource_check import check_training_memory
from ossft_ray.distributed.session import start_ray
from ossft_ray.engines.all_reduce import all_reduce_seconds
from ossft_ray.engines.gpus import driver_gpus, torch_gpus
from ossft_ray.engines.installation import installation_faults
from ossft_ray.policy.model_access import model_refusal
from ossft_ray.policy.model_location import model_digest
from ossft_ray.run_folder.provenance import package_versions
from ossft_ray.run_folder.resolved_run import Run
from ossft_ray.stages.check.node_checks import ClusterReport, NodeReport, find_faults

_REPORT_SECONDS = 180.0  # a node's first task imports torch and transformers
_REDUCE_SECONDS = 120.0
_REDUCE_BYTES = 64 << 20


def check_cluster(run: Run, verbose: bool = False) -> ClusterReport:
    """Check every node of the cluster that `RAY_ADDRESS` names, or this machine without it.

    Raises:
        InputError: a node cannot read or write the run's output, so nothing else can be checked.
    """
    try:
        start_ray(run.experiment, verbose)  # which also checks that all nodes share the output
    except OSError as error:
        raise InputError(f"[run] output: {brief(error)}; choose one that can be written to") from error
    nodes = {node["NodeID"]: node for node in alive_nodes()}
    policies = [each.experiment.policy for each in (run, *run.other_models.values())]
    arguments = {node_id: (node, policies, run.experiment.run.output) for node_id, node in nodes.items()}
    reports, failures = ask_nodes(_report, arguments, _REPORT_SECONDS)
    faults = [
        f"{node_name(nodes[node_id])}: {reason}; look at `ray status`, check that its disks and the shared folder do "
        "not hang, and give it the same environment as the driver"
        for node_id, reason in failures.items()
    ]
    faults += find_faults(list(reports.values()), _versions(), _digest(policies))
    all_reduce = None
    try:
        if reports:
            all_reduce = _all_reduce([nodes[node_id] for node_id in reports])
    except RayError as error:
        faults.append(_all_reduce_fault(error))
    memory = None
    try:
        memory = check_training_memory(run.experiment)
    except InputError as error:
        faults.append(str(error))
    return ClusterReport(list(reports.values()), faults, all_reduce, memory)


@ray.remote(num_cpus=0, max_retries=0)
def _report(node: dict[str, Any], policies: list[Policy], output: str) -> NodeReport:
    """Run on a node: look at its software, GPUs, disks and models."""
    resources, local_output = node["Resources"], Folder.at(output).local_path
    nvidia, torch = driver_gpus(), torch_gpus()
    # .../session_.../sockets/plasma_store
    ray_tmp = shutil.disk_usage(Path(node["ObjectStoreSocketName"]).parent)
    return NodeReport(
        name=node_name(node),
        versions=_versions(),
        ray_cpus=resources.get("CPU", 0.0),
        ray_gpus=resources.get("GPU", 0.0),
        nvidia=nvidia,
        torch=torch,
        installation_faults=installation_faults(has_gpu=bool(nvidia.names or torch.names)),
        output_free=shutil.disk_usage(local_output).free if local_output is not None else None,
        tmp_free=shutil.disk_usage(tempfile.gettempdir()).free,
        ray_tmp_free=ray_tmp.free,
        ray_tmp_share=ray_tmp.free / ray_tmp.total,
        shm_bytes=shutil.disk_usage("/dev/shm").total,
        object_store_bytes=int(resources.get("object_store_memory", 0)),
        policy_refusal=next(filter(None, map(model_refusal, policies)), None),
        policy_digest=_digest(policies),
    )


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **package_versions()}


def _digest(policies: list[Policy]) -> str:
    try:
        return " ".join(map(model_digest, policies))
    except (InputError, OSError):
        return ""  # `policy_refusal` gives the reason


@ray.remote(num_cpus=0)
class _Reducer:
    """One process of the all-reduce."""

    def address(self) -> str:
        """HOST:PORT of this node, with a port that is free right now."""
        with socket.socket() as listener:
            listener.bind(("", 0))
            return f"{ray.util.get_node_ip_address()}:{listener.getsockname()[1]}"

    def reduce(self, rank: int, num_workers: int, address: str) -> float:
        return all_reduce_seconds(rank, num_workers, address, _REDUCE_BYTES, _REDUCE_SECONDS / 2)


def _all_reduce(nodes: list[dict[str, Any]]) -> str:
    """One all-reduce over all GPUs, or over all nodes of a cluster without GPUs; returns how fast it was."""
    num_gpus = {node["NodeID"]: int(node["Resources"].get("GPU", 0)) for node in nodes}
    has_gpus = any(num_gpus.values())
    ranks = [node_id for node_id, num in num_gpus.items() for _ in range(num if has_gpus else 1)]
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


def _all_reduce_fault(error: Exception) -> str:
    hint = (
        "open all ports between the nodes, and name their network interface in GLOO_SOCKET_IFNAME and "
        "NCCL_SOCKET_IFNAME"
    )
    if isinstance(error, GetTimeoutError):
        return f"all-reduce: not done within {_REDUCE_SECONDS:.0f} seconds: other jobs use the GPUs, or {hint}"
    return f"all-reduce: {root_cause(error)}; {hint}"
