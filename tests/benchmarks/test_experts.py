"""The experts of the four-way experiment, some of whom make mistakes."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from fourway.experts import Expert, mixed_problems, solution_of

from ossft_ray.playground.arithmetic import ArithmeticProblem, Term, training_problems
from ossft_ray.verification.kinds import number

PROBLEM = ArithmeticProblem((Term(1, 7, 8), Term(-1, 17), Term(1, 4)), "Compute {chain}.")


@pytest.mark.parametrize(
    "expert, solution",
    [
        ("lines", "7*8=56\n56-17=39\n39+4=43\nSo we get \\boxed{43}"),
        (
            "sentences",
            "We know 7 * 8 = 56. Begin with 56. Taking 17 from 56 gives 39. Adding 4 to 39 gives 43. "
            "The result is \\boxed{43}",
        ),
        (
            "leaps",
            "We know 7 * 8 = 56. Gather the gains: 56 + 4 = 60. Now the losses: 17. "
            "Their difference, 60 - 17, leaves \\boxed{43}",
        ),
    ],
)
def test_style_of_each_expert(expert: Expert, solution: str) -> None:
    assert solution_of(PROBLEM, expert) == solution


def test_experts_take_turns_and_make_mistakes() -> None:
    plain = training_problems(200, seed=3)
    mixed = mixed_problems(200, seed=3, mistakes=0.2)
    assert [row["question"] for row in mixed] == [row["question"] for row in plain], "the problems are the same"
    right = [number.grade(row["answer"], row["expert_solution"]).correct for row in mixed]
    assert 0.1 < right.count(False) / len(right) < 0.3
    assert all(number.grade(row["answer"], row["expert_solution"]).correct for row in plain)
    assert ["So we get" in row["expert_solution"] for row in mixed[:4]] == [True, False, False, True]
    assert all("gives" in row["expert_solution"] for row in mixed[1::3] if " + " in row["question"])
