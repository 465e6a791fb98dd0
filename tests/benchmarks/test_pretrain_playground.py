"""The examples that the playground's policy learns from, and the products that they leave out."""

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from fourway.experts import with_wrong_result
from pretrain_playground import ALONE, GUIDED, Mix, draw_problem

from ossft_ray.playground.arithmetic import TABLE, sample_problem
from ossft_ray.verification import final_answer


@pytest.mark.parametrize("mix", [ALONE, GUIDED], ids=["alone", "guided"])
def test_the_table_is_never_in_pretraining(mix: Mix) -> None:
    rng = random.Random(0)
    problems = [draw_problem(mix, rng) for _ in range(1500)]
    products = {(term.number, term.factor) for problem in problems for term in problem.terms if term.factor}
    assert len(products) > 10, "the sample contains products"
    assert products.isdisjoint(TABLE)
    assert {problem.split for problem in problems} == {"pretrain"}


def test_a_corrupted_guide_has_a_wrong_result() -> None:
    rng = random.Random(3)
    for _ in range(40):
        problem = sample_problem(3, "train", rng)
        assert final_answer(with_wrong_result(problem.expert_solution, random.Random(0))) != problem.answer
