"""The simulation of many policies, compared with figures worked out by hand and with the rules that it follows."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from manypolicies.plan import old_part_capacity, part_sizes, parts_at_once, parts_in_window
from manypolicies.simulated import SimulatedPolicy, VirtualLoop, simulate
from manypolicies.usage import Draw, usage
from manypolicies.workload import Workload

from ossft_ray.common.types import Problem
from ossft_ray.stages.rewrite.ingest import part_capacity

FIXED = Workload(slots=4, sigma=0.0, median_seconds=2.0)  # every response takes two seconds


@pytest.mark.parametrize(
    "by_policy, slots, used, used_before_tail, tail_seconds, lost_in_tail",
    [
        ([[(0.0, 10.0)]], 1, 1.0, 1.0, 0.0, 0.0),
        ([[(0.0, 10.0)]], 2, 0.5, 0.5, 0.0, 0.0),
        ([[(0.0, 10.0)], [(0.0, 4.0)]], 1, 0.7, 1.0, 6.0, 0.3),
        ([[(0.0, 10.0)], [(2.0, 4.0)]], 1, 0.6, 0.75, 6.0, 0.3),
        ([[(0.0, 10.0)], []], 1, 0.5, 0.0, 10.0, 0.5),
    ],
    ids=["busy", "an idle slot", "a straggler", "one begins late", "one never begins"],
)
def test_usage(
    by_policy: list[list[Draw]],
    slots: int,
    used: float,
    used_before_tail: float,
    tail_seconds: float,
    lost_in_tail: float,
) -> None:
    of_all = usage(by_policy, slots)
    assert of_all.used == pytest.approx(used)
    assert of_all.used_before_tail == pytest.approx(used_before_tail)
    assert of_all.tail_seconds == pytest.approx(tail_seconds)
    assert of_all.lost_in_tail == pytest.approx(lost_in_tail)


@pytest.mark.parametrize(
    "num_policies, sizes, at_once, seconds",
    [(1, [8], 1, 4.0), (2, [4, 4], 1, 2.0), (1, [4, 4], 1, 4.0), (1, [4, 4], 2, 4.0), (2, [8, 4, 4], 1, 4.0)],
    ids=["twice its slots", "two policies", "part by part", "both parts", "large ones first"],
)
def test_the_duration_with_equal_responses(
    num_policies: int, sizes: list[int], at_once: int, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Workload, "draw", lambda self, problem_id, stage, seed: (self.median_seconds, True))
    of_all = simulate(FIXED, num_policies, sizes, at_once)
    assert of_all.seconds == pytest.approx(seconds)
    assert of_all.used == pytest.approx(1.0)
    assert of_all.busy_seconds == pytest.approx(2.0 * sum(sizes))


def test_no_more_responses_than_slots_run_at_once() -> None:
    workload = Workload(slots=4)
    policy, loop = SimulatedPolicy(workload), VirtualLoop()
    loop.run_until_complete(policy.part([Problem(f"p{n}", "question", "1", "solution") for n in range(40)]))
    loop.close()
    changes = sorted([(begin, 1) for begin, _ in policy.draws] + [(end, -1) for _, end in policy.draws])
    at_once = [sum(change for _, change in changes[: index + 1]) for index in range(len(changes))]
    assert max(at_once) == workload.slots
    assert len(policy.draws) >= 40


def used(workload: Workload, num_policies: int, sizes: list[int], late_seconds: float = 0.0) -> float:
    share = parts_at_once(workload, num_policies, len(sizes), sum(sizes))
    return simulate(workload, num_policies, sizes, share, late_seconds).used


def used_without_shares(workload: Workload, num_policies: int, sizes: list[int], late_seconds: float = 0.0) -> float:
    window = parts_in_window(workload, len(sizes), sum(sizes))
    return simulate(workload, num_policies, sizes, window, late_seconds).used


@pytest.mark.thorough
def test_small_parts_keep_many_policies_busy() -> None:
    workload = Workload(problems_per_policy=96, slots=8)
    small, large = part_sizes(64 * 96, part_capacity), part_sizes(64 * 96, old_part_capacity)
    assert used(workload, 64, small) > 1.3 * used_without_shares(workload, 64, large)


def test_shares_leave_parts_to_policies_that_start_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Workload, "draw", lambda self, problem_id, stage, seed: (30.0, True))
    workload = Workload(problems_per_policy=32, slots=48)  # two parts for each policy, whose window holds five
    sizes = part_sizes(16 * 32, part_capacity)
    # With shares, all end after 20 + 30 seconds. Without, the first policies hold too many parts, the last none.
    assert used(workload, 16, sizes, late_seconds=20) == pytest.approx(16 * 32 * 30 / (16 * 48 * 50))
    assert used_without_shares(workload, 16, sizes, late_seconds=20) < 0.35
