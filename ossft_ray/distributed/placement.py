"""Resource planning: how many policies and training workers the cluster's nodes hold.

A policy stays on one node with all its GPUs and its verifiers, and so does a training worker with its GPUs. A node
with seven GPUs therefore holds three policies of two GPUs each, whatever other nodes have left over.
"""

from collections import Counter
from dataclasses import dataclass

from ossft_ray.common.errors import InputError
from ossft_ray.config import Resources


@dataclass(frozen=True)
class NodeCapacity:
    """A node's GPUs and CPUs, in use or not."""

    gpus: float
    cpus: float

    def slots(self, gpus_each: float, cpus_each: int) -> int:
        """The number of actors of this size that fit. A fraction of a GPU must lie on a single GPU."""
        by_cpus = int(self.cpus // cpus_each)
        if not gpus_each:
            return by_cpus
        actors_per_gpu = int(1 / gpus_each + 1e-9)  # 1 // 0.1 is 9
        by_gpus = int(self.gpus) * actors_per_gpu if gpus_each < 1 else int(self.gpus // gpus_each)
        return min(by_gpus, by_cpus)


@dataclass(frozen=True)
class ResourcePlan:
    """`[resources]` with a number in place of every `auto`."""

    num_policies: int  # on the cluster as it is now
    gpus_per_policy: float
    num_train_workers: int
    gpus_per_train_worker: int
    cpus_per_policy: int = 1  # for the policy and its verifiers
    min_policies: int = 1  # rewriting starts with this many
    max_policies: int | None = None  # as nodes join; None: no limit


def slots_on(nodes: list[NodeCapacity], gpus_each: float, cpus_each: int) -> int:
    """How many actors of this size fit on the nodes together."""
    return sum(node.slots(gpus_each, cpus_each) for node in nodes)


def resolve_resources(
    resources: Resources, nodes: list[NodeCapacity], gpus_per_engine: int, num_verifiers: int
) -> ResourcePlan:
    """Turn `[resources]` into numbers: `auto` means all GPUs, now and as nodes join, or one actor each without GPUs.

    `gpus_per_engine` is what one engine spans, `num_verifiers` the number of processes that grade for it. Each verifier
    gets a CPU if the nodes have enough; otherwise verifiers share.

    Raises:
        InputError: the nodes hold fewer actors than asked for; says what they hold.
    """
    has_gpus = any(node.gpus for node in nodes)
    gpus_per_policy = _unless_auto(resources.gpus_per_policy, gpus_per_engine if has_gpus else 0)
    gpus_per_worker = int(_unless_auto(resources.gpus_per_train_worker, 1 if has_gpus else 0))
    policy_slots, worker_slots = slots_on(nodes, gpus_per_policy, 1), slots_on(nodes, gpus_per_worker, 1)
    num_policies = int(_unless_auto(resources.num_policies, policy_slots if gpus_per_policy else 1))
    num_workers = int(_unless_auto(resources.num_train_workers, worker_slots if gpus_per_worker else 1))
    min_policies = min(resources.min_policies or num_policies, num_policies)
    key = "min_policies" if resources.min_policies else "num_policies"
    _check_fit(key, min_policies, gpus_per_policy, policy_slots, nodes)
    _check_fit("num_train_workers", num_workers, gpus_per_worker, worker_slots, nodes)
    num_now = min(num_policies, policy_slots)
    # the most CPUs for each policy and its verifiers with which all policies still fit
    cpus = next(c for c in range(1 + num_verifiers, 0, -1) if c == 1 or slots_on(nodes, gpus_per_policy, c) >= num_now)
    grows = resources.num_policies == "auto" and gpus_per_policy > 0
    max_policies = None if grows else num_policies
    return ResourcePlan(num_now, gpus_per_policy, num_workers, gpus_per_worker, cpus, min_policies, max_policies)


def _check_fit(key: str, count: int, gpus_each: float, slots: int, nodes: list[NodeCapacity]) -> None:
    if 1 <= count <= slots:
        return
    kinds = Counter((f"{node.gpus:g} GPUs and " if gpus_each else "") + f"{node.cpus:g} CPUs" for node in nodes)
    has = ", ".join(f"{num} node{'s' if num > 1 else ''} with {kind}" for kind, num in kinds.items())
    size = f"{gpus_each:g} GPU{'s' if gpus_each != 1 else ''} on one node" if gpus_each else "a CPU"
    wanted = f"{key} = {count}" if count else key
    raise InputError(f"[resources] {wanted}, each with {size}: the cluster has room for {slots} ({has}); ask for less")


def _unless_auto(value: float | str, automatic: float) -> float:
    return automatic if isinstance(value, str) else value
