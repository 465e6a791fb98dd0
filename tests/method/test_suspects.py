"""Attempts that contradict a gold answer: one behaviour a row."""

import asyncio

import pytest

from ossft_ray.common.types import Attempt
from ossft_ray.method.suspects import Suspect, find_suspect


def attempts(answers: str) -> list[Attempt]:
    """One `self` attempt a word: its answer, `+` if it is right, `-` if it has none; `g:` marks guided attempts."""
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
