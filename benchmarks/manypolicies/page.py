"""Tables of many policies: measured for up to 256, simulated for up to 1,024."""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from manypolicies.plan import old_part_capacity, part_sizes, parts_at_once, parts_in_window
from manypolicies.usage import Usage
from manypolicies.workload import Workload
from ossft_ray.stages.rewrite.ingest import part_capacity

ACTORS = {1: 1, 4: 4, 16: 16, 64: 16, 256: 16}
SIMULATED = (1, 4, 16, 64, 256, 1024)
PER_POLICY = (24, 48, 96, 192, 384)  # problems
LATE_SECONDS = 20.0  # from the first ready engine to the last, in the columns named late
Figures = dict[str, Any]
_ROLES = ("driver", "gcs", "raylet", "tally", "actors")
_MEASURED = (
    *("policies", "actors", "problems", "parts", "seconds", "used", "simulated", "before-tail", "tail,s"),
    *("lost-in-tail", *(f"{role},%" for role in _ROLES), "driver-ms/part", "driver-ms/problem"),
)
_SIMULATED = (
    *("policies", "problems", "parts", "used", "before-tail", "lost-in-tail"),
    *("late", "as-it-was", "as-it-was-late"),
)


def measured_figures(num_policies: int, num_actors: int, problems_per_policy: int) -> Figures:
    """Measure with this process as the driver."""
    from manypolicies.measured import Settings, measure

    workload = Workload(problems_per_policy=problems_per_policy)
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(Settings(workload, num_policies, num_actors, Path(folder)))
    return {**dataclasses.asdict(measured), "loads": [round(load, 1) for load in os.getloadavg()]}


def measure_in_new_process(num_policies: int, num_actors: int, problems_per_policy: int) -> Figures:
    """Measure in a new process, so that sizes do not share a Ray."""
    only = json.dumps([num_policies, num_actors, problems_per_policy])
    command = [sys.executable, str(Path(__file__).parents[1] / "scaling.py"), "--only-policies", only]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{num_policies} policies failed: {done.stderr[-3000:]}")
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def print_measured(sizes: list[int], problems_per_policy: int) -> Figures:
    """Print the measured table, with a simulation of the same responses and parts in each row."""
    print("Measured: real rewriting, scripted engines; `simulated` has the same responses and parts, without processes")
    _row(_MEASURED)
    result: Figures = {}
    for size in sizes:
        figures = measure_in_new_process(size, ACTORS[size], problems_per_policy)
        usage, processors = Usage(**figures["usage"]), figures["processor_seconds"]
        num_problems = size * problems_per_policy
        simulated = simulate_now(Workload(problems_per_policy=problems_per_policy), size)
        shares = {role: processors.get(role, 0.0) / usage.seconds for role in _ROLES}
        driver_ms = 1000 * processors.get("driver", 0.0)
        _row(
            [
                size,
                ACTORS[size],
                num_problems,
                figures["num_parts"],
                f"{usage.seconds:.0f}",
                f"{usage.used:.3f}",
                f"{simulated.used:.3f}",
                f"{usage.used_before_tail:.3f}",
                f"{usage.tail_seconds:.0f}",
                f"{usage.lost_in_tail:.3f}",
                *(f"{100 * shares[role]:.1f}" for role in _ROLES),
                f"{driver_ms / figures['num_parts']:.1f}",
                f"{driver_ms / num_problems:.2f}",
            ]
        )
        print(f"    largest actor {figures['actor_mib']:.0f} MiB; load of the machine {figures['loads']}", flush=True)
        result |= {
            f"used_{size}": round(usage.used, 4),
            f"used_simulated_{size}": round(simulated.used, 4),
            f"lost_in_tail_{size}": round(usage.lost_in_tail, 4),
            f"used_before_tail_{size}": round(usage.used_before_tail, 4),
            **{f"{role}_share_{size}": round(shares[role], 4) for role in _ROLES},
            f"driver_ms_per_part_{size}": round(driver_ms / figures["num_parts"], 2),
            f"driver_ms_per_problem_{size}": round(driver_ms / num_problems, 3),
        }
    return result


def print_simulated(problems_per_policy: int) -> Figures:
    """Print the cost of the scheduling rules, now and earlier, by the number of policies and their problems."""
    result: Figures = {}
    print("\nSimulated, no Ray: share of the engines' time that is used")
    _row(_SIMULATED)
    for size in SIMULATED:
        workload = Workload(problems_per_policy=problems_per_policy)
        now, late = simulate_now(workload, size), simulate_now(workload, size, LATE_SECONDS)
        was, was_late = simulate_before(workload, size), simulate_before(workload, size, LATE_SECONDS)
        num_problems = size * problems_per_policy
        shares = [now.used, now.used_before_tail, now.lost_in_tail, late.used, was.used, was_late.used]
        _row([size, num_problems, len(part_sizes(num_problems, part_capacity)), *(f"{share:.3f}" for share in shares)])
        result |= {f"sim_used_{size}": round(now.used, 4), f"sim_before_{size}": round(was.used, 4)}
        result |= {
            f"sim_used_late_{size}": round(late.used, 4),
            f"sim_before_late_{size}": round(was_late.used, 4),
        }
    print("\nSimulated, 64 policies: by the problems of each")
    _row(["problems/policy", "problems/slot", "used", "before-tail", "lost-in-tail", "tail,s", "seconds"])
    for count in PER_POLICY:
        workload = Workload(problems_per_policy=count)
        now = simulate_now(workload, 64)
        shares = [now.used, now.used_before_tail, now.lost_in_tail]
        times = [now.tail_seconds, now.seconds]
        _row([count, count / workload.slots, *(f"{s:.3f}" for s in shares), *(f"{t:.0f}" for t in times)])
        result |= {f"sim_used_64x{count}": round(now.used, 4)}
    return result


def simulate_now(workload: Workload, num_policies: int, late_seconds: float = 0.0) -> Usage:
    from manypolicies.simulated import simulate

    num_problems = workload.problems_per_policy * num_policies
    sizes = part_sizes(num_problems, part_capacity)
    at_once = parts_at_once(workload, num_policies, len(sizes), num_problems)
    return simulate(workload, num_policies, sizes, at_once, late_seconds)


def simulate_before(workload: Workload, num_policies: int, late_seconds: float = 0.0) -> Usage:
    from manypolicies.simulated import simulate

    num_problems = workload.problems_per_policy * num_policies
    sizes = part_sizes(num_problems, old_part_capacity)
    return simulate(workload, num_policies, sizes, parts_in_window(workload, len(sizes), num_problems), late_seconds)


def _row(cells: Iterable[Any]) -> None:
    print("  ".join(f"{cell!s:>8}" for cell in cells), flush=True)
