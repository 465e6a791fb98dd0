"""Corrupted guides: what changes in them, what stays, which are skipped; and the counts of outcomes."""

import random
import re

import pytest

from ossft_ray.method.parroting import Outcome, corrupt, summarise_outcomes

# solution, answer, pattern that the corrupted guide must match
CORRUPTED = {
    "box": (r"40 + 2 = 42. So \boxed{42}.", "42", r"40 \+ 2 = (\d+)\. So \\boxed\{\1\}\."),
    "an earlier line stays": ("It is 42.\nSo \\boxed{42}", "42", r"It is 42\.\nSo \\boxed\{\d+\}"),
    "tail": ("48 + 24 = 72\n#### 72", "72", r"48 \+ 24 = 72\n#### \d+"),
    "negative": (r"\boxed{-5}", "-5", r"\\boxed\{-\d+\}"),
    "decimal": (r"\boxed{3.25}", "3.25", r"\\boxed\{\d\.\d\d\}"),
    "percent": (r"\boxed{50\%}", r"50\%", r"\\boxed\{\d\d\\%\}"),
    "money": ("#### $1,234", "1234", r"#### \$1,2\d\d"),
    "fraction": (r"\boxed{\frac{3}{4}}", r"\frac{3}{4}", r"\\boxed\{\\frac\{\d+\}\{4\}\}"),
    "slashed fraction": (r"\boxed{3/4}", "3/4", r"\\boxed\{\d+/4\}"),
    "part of another number": (r"142 - 100 leaves \boxed{42}", "42", r"142 - 100 leaves \\boxed\{\d+\}"),
}
SKIPPED = {
    "text": (r"\boxed{\text{Evelyn}}", r"\text{Evelyn}"),
    "expression": (r"\boxed{2x + 1}", "2x + 1"),
    "interval": (r"\boxed{[0, 1)}", "[0, 1)"),
    "no answer marked": ("It is 42.", "42"),
}


@pytest.mark.parametrize(("solution", "answer", "pattern"), CORRUPTED.values(), ids=CORRUPTED.keys())
@pytest.mark.parametrize("seed", range(20))
def test_corrupted(solution: str, answer: str, pattern: str, seed: int) -> None:
    found = corrupt(solution, answer, random.Random(seed))
    assert found is not None
    assert re.fullmatch(pattern, found.solution)
    assert found.wrong_answer in found.solution != solution
    assert found == corrupt(solution, answer, random.Random(seed))


@pytest.mark.parametrize(("solution", "answer"), SKIPPED.values(), ids=SKIPPED.keys())
def test_skipped(solution: str, answer: str) -> None:
    assert corrupt(solution, answer, random.Random(0)) is None


def test_summary() -> None:
    outcomes: list[Outcome] = ["correct", "followed", "other", "followed", "skipped"]
    found = summarise_outcomes(outcomes)
    assert found | {"stderr": 0} == {
        "problems": 5,
        "samples": 4,
        "followed": 2,
        "correct": 1,
        "other": 1,
        "skipped": 1,
        "followed_share": 0.5,
        "stderr": 0,
    }
    assert found["stderr"] == pytest.approx((1 / 3 / 4) ** 0.5)


def test_a_sample_without_responses_has_no_share() -> None:
    assert summarise_outcomes(["skipped"])["followed_share"] is None
