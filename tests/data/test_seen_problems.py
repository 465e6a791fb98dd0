"""Ids and questions that came before, in one reading of the input or in a run that grows."""

from collections.abc import Iterator

import pytest

from ossft_ray.common.types import Problem
from ossft_ray.data.seen_problems import Seen, normalise_question


@pytest.fixture
def seen() -> Iterator[Seen]:
    seen = Seen()
    yield seen
    seen.close()


def problem(problem_id: str, question: str = "", answer: str = "2", solution: str | None = "s") -> Problem:
    return Problem(problem_id, question or f"question {problem_id}", answer, solution)


@pytest.mark.parametrize(
    "one, other, same",
    [
        ("What is 1+1?", "what is 1+1", True),
        ("  What\n is\t1+1 ? ", "What is 1+1?", True),
        ('"What is 1+1?"', "What is 1+1.", True),
        ("STRASSE", "straße", True),
        ("What is 5!?", "What is 5?", False),
        ("-5 + 3", "5 + 3", False),
        ("What is 1+1?", "What is 1-1?", False),
        ("(1+1)/2", "1+1)/2", False),
        ("What is 1 1?", "What is 11?", False),
    ],
)
def test_questions_that_are_the_same(seen: Seen, one: str, other: str, same: bool) -> None:
    assert (normalise_question(one) == normalise_question(other)) is same
    seen.meet(problem("a", one))
    assert seen.same_question(problem("b", other)) == ("a" if same else None)


def test_a_repeated_question_is_the_first_ones(seen: Seen) -> None:
    for name in "abc":
        seen.meet(problem(name, "q"))
    assert seen.same_question(problem("d", "q")) == "a"
    assert seen.same_question(problem("a", "q")) is None


def test_an_id_stands_for_one_problem(seen: Seen) -> None:
    assert seen.standing(problem("a")) == "new"
    assert seen.standing(problem("a")) == "new", "asking is not meeting"
    seen.meet(problem("a"))
    assert seen.standing(problem("a")) == "repeated"
    assert seen.standing(problem("a", "other")) == "repeated"
    assert seen.standing(problem("A")) == "new"


@pytest.mark.parametrize(
    "now, standing",
    [
        (problem("a", "q", "2", "s"), "held"),
        (problem("a", "Q", "2", "s"), "changed"),
        (problem("a", "q", "3", "s"), "corrected"),
        (problem("a", "q", "2", "t"), "corrected"),
        (Problem("a", "q", "2", "s", "number"), "corrected"),
        (problem("b", "q", "2", "s"), "new"),
    ],
)
def test_what_a_run_holds(seen: Seen, now: Problem, standing: str) -> None:
    seen.hold(problem("a", "q", "2", "s"))
    assert seen.standing(now) == standing


def test_what_is_held_counts_as_first_wherever_it_comes(seen: Seen) -> None:
    seen.hold(problem("z", "q"))
    assert seen.same_question(problem("a", "q")) == "z"
    seen.meet(problem("a", "q"))
    assert seen.same_question(problem("z", "q")) is None


def test_the_first_that_is_missing(seen: Seen) -> None:
    assert seen.missing() is None
    for name in ("c", "b", "a"):
        seen.hold(problem(name))
    assert seen.missing() == "c"
    seen.meet(problem("c"))
    seen.meet(problem("new"))
    assert seen.missing() == "b"
    for name in "ab":
        seen.meet(problem(name))
    assert seen.missing() is None
