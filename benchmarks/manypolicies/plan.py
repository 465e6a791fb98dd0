"""How a run's problems are cut into parts, and how many of them a policy holds at once: by the rules of the package."""

from collections.abc import Callable

from manypolicies.workload import Workload
from ossft_ray.config import resolve
from ossft_ray.distributed.placement import Placement
from ossft_ray.distributed.rollout_pool import pool_arguments


def plan(num_problems: int, capacity: Callable[[int], int]) -> list[int]:
    """Sizes of the parts in the order in which they are handed out: large ones first."""
    sizes: list[int] = []
    while num_problems > 0:
        sizes.append(min(capacity(len(sizes)), num_problems))
        num_problems -= sizes[-1]
    return sorted(sizes, reverse=True)


def held_at_once(workload: Workload, num_policies: int, num_parts: int, num_problems: int) -> int:
    """Parts that one policy holds at once."""
    experiment = resolve(
        {
            "policy": {"model": "playground"},
            "data": {"path": "problems.jsonl"},
            "resources": {"problems_in_flight": workload.window},
        }
    )
    arguments = pool_arguments(experiment, Placement(num_policies, 1, 1, 1), num_parts, num_problems)
    return int(arguments["compute"].max_tasks_in_flight_per_actor)


def filling(workload: Workload, num_parts: int, num_problems: int) -> int:
    """Parts that fill a policy's window, and one more: what a policy held before its share was a limit too."""
    return -(-workload.window * num_parts // num_problems) + 1


def before(number: int) -> int:
    """The size of a part as it was until part sizes came to follow the input's."""
    return 16 if number < 256 else 128
