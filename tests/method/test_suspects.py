"""Attempts that contradict a gold answer: one behaviour a row."""

import asyncio
from typing import Any

import pytest

from ossft_ray.common.types import Attempt
from ossft_ray.method.suspects import Suspect, find_suspect, rank_suspects


def attempts(answers: str) -> list[Attempt]:
    """One `self` attempt per word: its answer, `+` if it is right, `-` if it has none; `g:` marks guided attempts."""
    found = []
    for index, word in enumerate(answers.split()):
        stage, answer = ("guided", word[2:]) if word.startswith("g:") else ("self", word)
        extracted = None if answer == "-" else answer
        found.append(Attempt(stage, index, answer == "+", "", "stop", 1, None, extracted))  # type: ignore[arg-type]
    return found


async def is_same(answer: str, other: str) -> bool:
    return answer.casefold() == other.casefold()


@pytest.mark.parametrize(
    ("answers", "agreed", "agreeing"),
    [
        ("7 7 7", "7", [0, 1, 2]),
        ("7 7", None, []),  # too few
        ("7 7 7 8 9", "7", [0, 1, 2]),
        ("7 7 7 8 9 9", None, []),  # not more than half
        ("7 8 7 - 7 -", "7", [0, 2, 4]),  # attempts without an answer do not count
        ("x X x", "x", [0, 1, 2]),  # equal to the verifier, though written differently
        ("7 7 7 g:8 g:8 g:8 g:8", "7", [0, 1, 2]),  # guided attempts do not count
        ("g:7 g:7 g:7", None, []),
        ("+ 7 7 7", "7", [1, 2, 3]),
        ("+ + + 7 7 7", None, []),
        ("+ + +", None, []),
        ("- - -", None, []),
        ("", None, []),
    ],
)
def test_find_suspect(answers: str, agreed: str | None, agreeing: list[int]) -> None:
    of_self = [word for word in answers.split() if not word.startswith("g:")]
    expected = Suspect(agreed, agreeing, len(of_self), of_self.count("+")) if agreed else None
    assert asyncio.run(find_suspect(attempts(answers), is_same)) == expected


def listed(problem_id: str, num_agreeing: int, num_attempts: int = 8) -> dict[str, Any]:
    found = {"problem_id": problem_id, "answer": "2", "agreed_answer": "3", "num_correct": 0}
    return found | {"agreeing": list(range(num_agreeing)), "num_attempts": num_attempts}


def problems(firsts: str) -> list[tuple[str, list[dict[str, Any]]]]:
    """Problems by the verdict of their first attempt, `+` or `-`; all later attempts are right, even guided ones."""
    right = [{"stage": stage, "index": index, "correct": True} for stage, index in (("self", 1), ("guided", 0))]
    firsts_and_later = [[{"stage": "self", "index": 0, "correct": first == "+"}, *right] for first in firsts]
    return [(f"p{number}", found) for number, found in enumerate(firsts_and_later)]


@pytest.mark.parametrize(
    "firsts, right, others, is_weak",
    [("-++-", 2, 3, False), ("+--+", 1, 3, True), ("+", 0, 0, True)],
)
def test_only_first_attempts_at_other_problems_count(firsts: str, right: int, others: int, is_weak: bool) -> None:
    found = rank_suspects([listed("p0", 8)], problems(firsts))
    assert (found.num_right, found.num_others) == (right, others)
    assert ("A policy this weak" in found.note) == is_weak
    assert found.ranked[0].evidence == pytest.approx(0.9 * right / max(1, others))


def test_more_agreement_and_more_attempts_are_more_evidence() -> None:
    found = rank_suspects([listed("p0", 3, 3), listed("p1", 8), listed("p2", 5)], problems("---+"))
    assert [each.problem_id for each in found.ranked] == ["p1", "p0", "p2"]
