"""Is a cluster fit for a run? What each node said of itself becomes problems, a line each, with how to mend them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

_MAX_CLOCK_SECONDS = 2.0
_MIN_SHM_BYTES = 1 << 30  # containers have 64 MiB by default; NCCL and a policy on several GPUs need more
_MIN_FREE_BYTES = 1 << 30
_MIN_FREE_SHARE = 0.05  # of a disk: Ray makes no objects on one that is fuller


@dataclass(frozen=True)
class Node:
    """What one node said of itself. Sizes are in bytes."""

    host: str
    address: str
    versions: dict[str, str]  # of Python and the packages that matter
    ray_cpus: float
    ray_gpus: float
    driver_gpus: list[str]  # names, as the GPUs' own driver lists them
    gpu_driver: str | None  # version
    torch_gpus: list[str]
    torch_error: str | None
    cuda: str | None  # that torch was built for
    output_refusal: str | None  # why the run's folder cannot be written to
    unseen: list[str] = field(default_factory=list)  # hosts whose files in the run's folder are not seen here
    output_free: int | None = None  # None in an object store
    tmp_free: int = 0
    ray_tmp_free: int = 0
    ray_tmp_share: float = 1.0  # free share of the disk that Ray's temporary files are on
    shm_bytes: int = 0
    object_store_bytes: int = 0
    policy_refusal: str | None = None  # why a model cannot be read here
    policy_digest: str = ""  # of local models' files, or their names on the Hub
    clock_offset_seconds: float = 0.0  # ahead of the driver's clock
    clock_error_seconds: float = 0.0  # of that, at most

    @property
    def name(self) -> str:
        return f"{self.host} ({self.address})"


@dataclass(frozen=True)
class ClusterFindings:
    """What `check --cluster` saw."""

    nodes: list[Node]
    problems: list[str]
    remarks: list[str]


def find_problems(nodes: Sequence[Node], driver_versions: dict[str, str], driver_digest: str, output: str) -> list[str]:
    """All problems, node by node."""
    return [
        f"{node.name}: {problem}"
        for node in nodes
        for problem in (
            *_versions(node, driver_versions),
            *_gpus(node),
            *_output(node, output),
            *_disks(node),
            *_policy(node, driver_digest),
            *_clock(node),
        )
    ]


def _versions(node: Node, driver: dict[str, str]) -> list[str]:
    differing = [
        f"{name} {node.versions.get(name, 'missing')} (driver: {driver.get(name, 'missing')})"
        for name in sorted(node.versions.keys() | driver.keys())
        if node.versions.get(name) != driver.get(name)
    ]
    mend = "give every node the same environment (`make env`, or one image) and start Ray from it"
    return [f"other versions than the driver's: {', '.join(differing)}; {mend}"] if differing else []


def _gpus(node: Node) -> list[str]:
    problems = []
    if node.torch_error is not None:
        problems.append(
            f"torch (for CUDA {node.cuda}) cannot use the GPUs, whose driver is {node.gpu_driver}: {node.torch_error}; "
            "install a driver that is new enough, or restart the node"
        )
    elif node.driver_gpus and node.cuda is None:
        problems.append(
            f"it has {len(node.driver_gpus)} GPUs, and torch is a build for CPUs; "
            "`make env BACKEND=gpu` makes the environment for GPUs"
        )
    elif node.ray_gpus > len(node.torch_gpus):
        problems.append(
            f"Ray counts {node.ray_gpus:g} GPUs and torch sees {len(node.torch_gpus)}; "
            "start Ray with the right --num-gpus, and see that CUDA_VISIBLE_DEVICES hides none"
        )
    elif node.ray_gpus < len(node.torch_gpus):
        problems.append(
            f"torch sees {len(node.torch_gpus)} GPUs and Ray counts {node.ray_gpus:g}, so that some would stay idle; "
            "start Ray where it sees them, or with --num-gpus"
        )
    return problems


def _output(node: Node, output: str) -> list[str]:
    if node.output_refusal is not None:
        return [f"[run] output {output} cannot be written to: {node.output_refusal}; mount it, or choose another"]
    if node.unseen:
        return [
            f"[run] output {output} is not shared: what {', '.join(node.unseen)} wrote there is not seen here; "
            "choose a folder on a shared file system, or an object store (s3://...)"
        ]
    return []


def _disks(node: Node) -> list[str]:
    problems = []
    for what, free in (("the run's output", node.output_free), ("temporary files", node.tmp_free)):
        if free is not None and free < _MIN_FREE_BYTES:
            problems.append(f"{_gib(free)} are free for {what}; free some")
    if node.ray_tmp_share < _MIN_FREE_SHARE:
        problems.append(
            f"{node.ray_tmp_share:.0%} of the disk of Ray's temporary files is free, and below "
            f"{_MIN_FREE_SHARE:.0%} Ray stores no more objects; free some, or start Ray with another --temp-dir"
        )
    if node.shm_bytes < _MIN_SHM_BYTES:
        problems.append(
            f"/dev/shm holds {_gib(node.shm_bytes)}, too little for NCCL and for policies on several GPUs; "
            "start the container with --shm-size (Kubernetes: an emptyDir with medium: Memory)"
        )
    elif node.shm_bytes < node.object_store_bytes:
        problems.append(
            f"/dev/shm holds {_gib(node.shm_bytes)} and Ray's object store is {_gib(node.object_store_bytes)}; "
            "enlarge the first, or start Ray with a smaller --object-store-memory"
        )
    return problems


def _policy(node: Node, driver_digest: str) -> list[str]:
    if node.policy_refusal is not None:
        return [node.policy_refusal]
    if node.policy_digest != driver_digest:
        return ["[policy] model: its files are others than the driver's; copy the same model to every node"]
    return []


def _clock(node: Node) -> list[str]:
    off = abs(node.clock_offset_seconds) - node.clock_error_seconds
    if off <= _MAX_CLOCK_SECONDS:
        return []
    way = "ahead of" if node.clock_offset_seconds > 0 else "behind"
    return [f"its clock is {abs(node.clock_offset_seconds):.1f} s {way} the driver's; let chrony or NTP set it"]


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / (1 << 30):.1f} GiB"
