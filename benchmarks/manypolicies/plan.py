"""The parts of a run's problems, and how many of them a policy holds at once, by the rules of the package."""

from collections.abc import Callable

from manypolicies.workload import Workload
from ossft_ray.config import resolve
from ossft_ray.distributed.placement import ResourcePlan
from ossft_ray.distributed.rollout_pool import pool_arguments


def part_sizes(num_problems: int, capacity: Callable[[int], int]) -> list[int]:
    """The sizes of the parts in the order in which they are distributed, large ones first."""
    sizes: list[int] = []
    while num_problems > 0:
        sizes.append(min(capacity(len(sizes)), num_problems))
        num_problems -= sizes[-1]
    return sorted(sizes, reverse=True)


def parts_at_once(workload: Workload, num_policies: int, num_parts: int, num_problems: int) -> int:
    """The number of parts that one policy holds at once."""
    experiment = resolve(
        {
            "policy": {"model": "playground"},
            "data": {"path": "problems.jsonl"},
            "resources": {"problems_in_flight": workload.window},
        }
    )
    arguments = pool_arguments(experiment, ResourcePlan(num_policies, 1, 1, 1), num_parts, num_problems)
    return int(arguments["compute"].max_tasks_in_flight_per_actor)


def parts_in_window(workload: Workload, num_parts: int, num_problems: int) -> int:
    """The parts that fill a policy's window, and one more: what a policy held before its share became a limit."""
    return -(-workload.window * num_parts // num_problems) + 1


def old_part_capacity(number: int) -> int:
    """The size of a part in an earlier version, in which it did not depend on the size of the input."""
    return 16 if number < 256 else 128
