"""The index of ids and questions, for one pass over the input and for a run that grows."""

from collections.abc import Iterator

import pytest

from ossft_ray.common.types import Problem
from ossft_ray.data.problem_index import ProblemIndex, normalise_question


@pytest.fixture
def index() -> Iterator[ProblemIndex]:
    index = ProblemIndex()
    yield index
    index.close()


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
def test_same_questions(index: ProblemIndex, one: str, other: str, same: bool) -> None:
    assert (normalise_question(one) == normalise_question(other)) is same
    index.add(problem("a", one))
    assert index.same_question(problem("b", other)) == ("a" if same else None)


def test_a_repeated_question_names_the_first_problem(index: ProblemIndex) -> None:
    for name in "abc":
        index.add(problem(name, "q"))
    assert index.same_question(problem("d", "q")) == "a"
    assert index.same_question(problem("a", "q")) is None


def test_an_id_belongs_to_one_problem(index: ProblemIndex) -> None:
    assert index.status(problem("a")) == "new"
    assert index.status(problem("a")) == "new", "a query does not add the problem"
    index.add(problem("a"))
    assert index.status(problem("a")) == "repeated"
    assert index.status(problem("a", "other")) == "repeated"
    assert index.status(problem("A")) == "new"


@pytest.mark.parametrize(
    "now, status",
    [
        (problem("a", "q", "2", "s"), "existing"),
        (problem("a", "Q", "2", "s"), "changed"),
        (problem("a", "q", "3", "s"), "corrected"),
        (problem("a", "q", "2", "t"), "corrected"),
        (Problem("a", "q", "2", "s", "number"), "corrected"),
        (problem("b", "q", "2", "s"), "new"),
    ],
)
def test_status_of_an_existing_problem(index: ProblemIndex, now: Problem, status: str) -> None:
    index.add_existing(problem("a", "q", "2", "s"))
    assert index.status(now) == status


def test_an_existing_problem_comes_first_in_any_order(index: ProblemIndex) -> None:
    index.add_existing(problem("z", "q"))
    assert index.same_question(problem("a", "q")) == "z"
    index.add(problem("a", "q"))
    assert index.same_question(problem("z", "q")) is None


def test_first_missing(index: ProblemIndex) -> None:
    assert index.first_missing() is None
    for name in ("c", "b", "a"):
        index.add_existing(problem(name))
    assert index.first_missing() == "c"
    index.add(problem("c"))
    index.add(problem("new"))
    assert index.first_missing() == "b"
    for name in "ab":
        index.add(problem(name))
    assert index.first_missing() is None
