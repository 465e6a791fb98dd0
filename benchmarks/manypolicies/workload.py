"""The workload of the policies: the same responses and durations, measured or simulated.

A response's duration is lognormal and capped at `longest_seconds`, as `max_tokens` caps its length. A problem's pass
rate comes from a beta distribution, so many problems are easy and many need every wave of samples. Up to `slots`
responses at once take an engine as long as one alone; others wait. Real engines slow down as their batch fills, so an
idle slot costs them less than it does here.
"""

import json
import math
import random
from dataclasses import dataclass
from pathlib import Path

SEED = 0


@dataclass(frozen=True)
class Workload:
    """Times in seconds. Ratios of slots, window and spare requests are those of an engine with 256 sequences."""

    problems_per_policy: int = 48
    slots: int = 16
    median_seconds: float = 4.0
    sigma: float = 0.8  # of the logarithm; the mean is 1.4 times the median
    longest_seconds: float = 32.0
    spare_below: int = 1

    @property
    def window(self) -> int:
        """Problems in flight: a quarter more than the slots, as in `problems_in_flight`."""
        return self.slots * 5 // 4

    def draw(self, problem_id: str, stage: str, seed: int) -> tuple[float, bool]:
        """The duration of a response in seconds, and whether it is right."""
        rng = random.Random(seed)
        seconds = self.median_seconds * math.exp(self.sigma * rng.gauss(0, 1))
        pass_rate = random.Random(problem_id).betavariate(0.5, 0.5)
        if stage == "guided":
            pass_rate = (1 + pass_rate) / 2
        return min(seconds, self.longest_seconds), rng.random() < pass_rate


def write_problems(path: Path, num_problems: int) -> None:
    with path.open("w") as file:
        for number in range(num_problems):
            row = {
                "id": f"p{number}",
                "problem": f"A farmer has {number} sheep and buys {number % 97} more. How many are there now?",
                "solution": f"{number} + {number % 97} = {number + number % 97}, so \\boxed{{{number + number % 97}}}.",
            }
            file.write(json.dumps(row) + "\n")
