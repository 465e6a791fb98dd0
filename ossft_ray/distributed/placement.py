"""What fits where? `[resources]` settled on the nodes that there are, by whole policies and workers of each node.

Everything that works together closely lies on one node: a policy with all its GPUs and its verifiers, a training worker
with its own. So seven GPUs of a node hold three policies of two, whatever other nodes have left over.
"""

from collections import Counter
from dataclasses import dataclass

from ossft_ray.common.errors import InputError
from ossft_ray.config import Resources


@dataclass(frozen=True)
class Node:
    """What a node of the cluster has to give in all, in use or not."""

    gpus: float
    cpus: float

    def room(self, gpus_each: float, cpus_each: int) -> int:
        """How many of this size it holds. A share of a GPU lies on one GPU."""
        if not gpus_each:
            return int(self.cpus // cpus_each)
        shares = int(1 / gpus_each + 1e-9)  # 1 // 0.1 is 9
        by_gpus = int(self.gpus) * shares if gpus_each < 1 else int(self.gpus // gpus_each)
        return min(by_gpus, int(self.cpus // cpus_each))


@dataclass(frozen=True)
class Placement:
    """`[resources]` with every `auto` settled."""

    num_policies: int  # on the cluster as it is
    gpus_per_policy: float
    num_train_workers: int
    gpus_per_train_worker: int
    cpus_per_policy: int = 1  # its own and its verifiers'
    min_policies: int = 1  # rewriting begins with so many
    max_policies: int | None = None  # as the cluster grows; None: as many as it comes to hold


def settle(resources: Resources, nodes: list[Node], gpus_of_engine: int, num_verifiers: int) -> Placement:
    """All the GPUs there are, and those that come, unless `[resources]` says otherwise; without any, one each on CPUs.

    `gpus_of_engine` are those that one engine spans, `num_verifiers` the processes that grade for it. These count as
    CPUs as far as the nodes have them: on a machine with less, they share.

    Raises:
        InputError: more is asked for than the nodes hold; says what they have.
    """
    has_gpus = any(node.gpus for node in nodes)
    gpus_per_policy = _or(resources.gpus_per_policy, gpus_of_engine if has_gpus else 0)
    gpus_per_worker = int(_or(resources.gpus_per_train_worker, 1 if has_gpus else 0))
    room_for_policies = _room(nodes, gpus_per_policy, 1)
    room_for_workers = _room(nodes, gpus_per_worker, 1)
    num_policies = int(_or(resources.num_policies, room_for_policies if gpus_per_policy else 1))
    num_workers = int(_or(resources.num_train_workers, room_for_workers if gpus_per_worker else 1))
    min_policies = min(resources.min_policies or num_policies, num_policies)
    name = "min_policies" if resources.min_policies else "num_policies"
    _refuse_too_many(name, min_policies, gpus_per_policy, room_for_policies, nodes)
    _refuse_too_many("num_train_workers", num_workers, gpus_per_worker, room_for_workers, nodes)
    num_now = min(num_policies, room_for_policies)
    cpus = next(c for c in range(1 + num_verifiers, 0, -1) if c == 1 or _room(nodes, gpus_per_policy, c) >= num_now)
    grows = resources.num_policies == "auto" and gpus_per_policy > 0
    max_policies = None if grows else num_policies
    return Placement(num_now, gpus_per_policy, num_workers, gpus_per_worker, cpus, min_policies, max_policies)


def _room(nodes: list[Node], gpus_each: float, cpus_each: int) -> int:
    return sum(node.room(gpus_each, cpus_each) for node in nodes)


def _refuse_too_many(name: str, count: int, gpus_each: float, room: int, nodes: list[Node]) -> None:
    if 1 <= count <= room:
        return
    kinds = Counter((f"{node.gpus:g} GPUs and " if gpus_each else "") + f"{node.cpus:g} CPUs" for node in nodes)
    has = ", ".join(f"{num} node{'s' if num > 1 else ''} with {kind}" for kind, num in kinds.items())
    size = f"{gpus_each:g} GPU{'s' if gpus_each != 1 else ''} on one node" if gpus_each else "a CPU"
    wanted = f"{name} = {count}" if count else name
    raise InputError(f"[resources] {wanted}, each with {size}: the cluster has room for {room} ({has}); ask for less")


def _or(value: float | str, automatic: float) -> float:
    return automatic if isinstance(value, str) else value
