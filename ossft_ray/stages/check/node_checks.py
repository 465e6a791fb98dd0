"""The rules for a node that is fit for the run. Each broken rule becomes one line that says how to fix it."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.filesize import decimal

from ossft_ray.engines.gpus import DriverGpus, TorchGpus, gpu_fault

_MIN_SHM_BYTES = 1 << 30  # containers have 64 MiB by default; NCCL and a policy on several GPUs need more
_MIN_FREE_BYTES = 1 << 30
_MIN_FREE_SHARE = 0.05  # free share of a disk below which Ray stores no objects there


@dataclass(frozen=True)
class NodeReport:
    """What one node reports about itself. Sizes are in bytes."""

    name: str  # host and address
    versions: dict[str, str]  # of Python and the packages that matter
    ray_cpus: float
    ray_gpus: float
    nvidia: DriverGpus  # what the NVIDIA driver sees
    torch: TorchGpus
    installation_faults: Sequence[str] = ()  # of its Python packages and its compiler
    output_free: int | None = None  # None for an object store
    tmp_free: int = 0
    ray_tmp_free: int = 0
    ray_tmp_share: float = 1.0  # free share of the disk that holds Ray's temporary files
    shm_bytes: int = 0
    object_store_bytes: int = 0
    policy_refusal: str | None = None  # why a model cannot be read here
    policy_digest: str = ""  # of the files of local models, or of the names of Hub models


@dataclass(frozen=True)
class ClusterReport:
    """The result of `check --cluster`."""

    nodes: list[NodeReport]
    faults: list[str]
    all_reduce: str | None  # how fast it was; None where it failed


def find_faults(nodes: Sequence[NodeReport], driver_versions: dict[str, str], driver_digest: str) -> list[str]:
    """All faults, node by node. The versions and the model's digest are compared with those of the run's driver."""
    return [
        f"{node.name}: {fault}"
        for node in nodes
        for fault in (
            *_version_faults(node, driver_versions),
            *node.installation_faults,
            *_gpu_faults(node),
            *_disk_faults(node),
            *_policy_faults(node, driver_digest),
        )
    ]


def _version_faults(node: NodeReport, wanted: dict[str, str]) -> list[str]:
    differing = [
        f"{name} {node.versions.get(name, 'missing')} (driver: {wanted.get(name, 'missing')})"
        for name in sorted(node.versions.keys() | wanted.keys())
        if node.versions.get(name) != wanted.get(name)
    ]
    hint = "give every node the same environment (`make env`, or one image) and start Ray from it"
    return [f"its versions differ from the driver's: {', '.join(differing)}; {hint}"] if differing else []


def _gpu_faults(node: NodeReport) -> list[str]:
    nvidia, torch, num_seen = node.nvidia, node.torch, len(node.torch.names)
    if fault := gpu_fault(nvidia, torch):
        return [fault]
    if node.ray_gpus > num_seen:
        return [
            f"Ray counts {node.ray_gpus:g} GPUs and torch sees {num_seen}; "
            "start Ray with the right --num-gpus, and check that CUDA_VISIBLE_DEVICES hides none"
        ]
    if node.ray_gpus < num_seen:
        return [
            f"torch sees {num_seen} GPUs and Ray counts {node.ray_gpus:g}, so some would stay idle; "
            "start Ray where it sees them, or with --num-gpus"
        ]
    return []


def _disk_faults(node: NodeReport) -> list[str]:
    faults = []
    for what, free in (("the run's output", node.output_free), ("temporary files", node.tmp_free)):
        if free is not None and free < _MIN_FREE_BYTES:
            faults.append(f"only {decimal(free)} is free for {what}; free up space")
    if node.ray_tmp_share < _MIN_FREE_SHARE:
        faults.append(
            f"only {node.ray_tmp_share:.0%} of the disk with Ray's temporary files is free, and below "
            f"{_MIN_FREE_SHARE:.0%} Ray stores no more objects; free up space, or start Ray with another --temp-dir"
        )
    if node.shm_bytes < _MIN_SHM_BYTES:
        faults.append(
            f"/dev/shm has {decimal(node.shm_bytes)}, too little for NCCL and for policies on several GPUs; "
            "start the container with --shm-size (Kubernetes: an emptyDir with medium: Memory)"
        )
    elif node.shm_bytes < node.object_store_bytes:
        faults.append(
            f"/dev/shm has {decimal(node.shm_bytes)} and Ray's object store is {decimal(node.object_store_bytes)}; "
            "enlarge /dev/shm, or start Ray with a smaller --object-store-memory"
        )
    return faults


def _policy_faults(node: NodeReport, driver_digest: str) -> list[str]:
    if node.policy_refusal is not None:
        return [node.policy_refusal]
    if node.policy_digest != driver_digest:
        return ["[policy] model: its files differ from the driver's; copy the same model to every node"]
    return []
