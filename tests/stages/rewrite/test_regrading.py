"""Stored attempts after a gold answer is corrected: one behaviour a row."""

import asyncio
from typing import Any

import pytest

from ossft_ray.common.types import Attempt, Problem, Response
from ossft_ray.common.verdict import Verdict
from ossft_ray.config import Rewrite
from ossft_ray.stages.rewrite.regrading import GradingKey, regrade

NEW = Problem("p", "q", "2", "the guide")


def key(answer: str, verifier: str = "", guide: str = "the guide") -> GradingKey:
    return GradingKey.of(Problem("p", "q", answer, guide, verifier))


OLD = key("1")
MENTIONS = "mentions_reference"


def attempt(reason: str, extracted: str | None = None, text: str | None = None, **changes: Any) -> Attempt:
    """An attempt; with `text` its whole response is stored, tokens included."""
    response = Response(text, [1, 2], "stop") if text is not None else None
    values = {"stage": "self", "index": 0, "correct": reason == "correct", "finish_reason": "stop", "num_tokens": 2}
    return Attempt(**{**values, "reason": reason, "response": response, "extracted": extracted, **changes})


async def verify(problem: Problem, text: str) -> Verdict:
    """Read the answer in braces."""
    extracted = text.partition("{")[2].removesuffix("}")
    return Verdict(extracted == problem.answer, "correct" if extracted == problem.answer else "wrong", extracted)


def graded(*attempts: Attempt, old: GradingKey = OLD, new: Problem = NEW, num_kept: int = 1) -> list[tuple[int, str]]:
    settings = Rewrite(keep_per_problem=num_kept)
    found = asyncio.run(regrade(new, [(attempt, old) for attempt in attempts], verify, settings))
    assert all(attempt.correct == (attempt.reason == "correct") for attempt in found)
    return [(attempt.index, attempt.reason) for attempt in found]


@pytest.mark.parametrize(
    ("stored", "now"),
    [
        (attempt("wrong", "3"), [(0, "wrong")]),
        (attempt("wrong", "2"), []),  # now right, but its tokens were not stored: sampled again
        (attempt("wrong", "2", r"\boxed{2}"), [(0, "correct")]),
        (attempt("correct", "1", r"\boxed{1}"), [(0, "wrong")]),
        (attempt("correct", "1"), [(0, "wrong")]),
        (attempt("unparsed", "x"), [(0, "wrong")]),
        (attempt("a_plugin's own reason", "3"), [(0, "wrong")]),
        (attempt("no_answer"), [(0, "no_answer")]),
        (attempt("truncated"), [(0, "truncated")]),
        (attempt("repetition"), [(0, "repetition")]),
        (attempt("timeout"), []),  # its answer is unknown
        (attempt("wrong"), []),  # a judge compared it with the old gold answer
        (attempt("unjudged"), []),
        (attempt("mentions_reference", "2", stage="guided"), [(0, "mentions_reference")]),
        (attempt("copies_reference", "1", stage="guided"), [(0, "wrong")]),
        # guided attempts that become right must pass a fresh one's checks, if their text is stored
        (attempt("wrong", "2", stage="guided"), []),
        (attempt("wrong", "2", r"As 1 + 1 = 2, it is \boxed{2}", stage="guided"), [(0, "correct")]),
        (attempt("wrong", "2", r"As the provided solution shows, 1 + 1 = \boxed{2}", stage="guided"), [(0, MENTIONS)]),
        (attempt("wrong", "2", r"I feel that it is \boxed{2}", stage="guided"), [(0, "no_derivation")]),
        (attempt("wrong", "2", r"As 1 + 2 = 4 and 1 + 1 = 2, \boxed{2}", stage="guided"), [(0, "wrong_step")]),
        (attempt("wrong", "2", r"As 1 + 2 = 4 and 1 + 1 = 2, \boxed{2}"), [(0, "correct")]),
        (attempt("mentions_reference", "2", r"As 1 + 1 = 2, it is \boxed{2}", stage="guided"), [(0, "correct")]),
        # without the text, checks that need the answer are undecided
        (attempt("no_derivation", "2", stage="guided"), []),
        (attempt("no_derivation", "3", stage="guided"), [(0, "wrong")]),
        (attempt("wrong_step", "2", stage="guided"), [(0, "wrong_step")]),
        (attempt("wrong_step", "2"), [(0, "wrong_step")]),
    ],
)
def test_one_attempt(stored: Attempt, now: list[tuple[int, str]]) -> None:
    assert graded(stored) == now


def test_guided_attempts_are_sampled_again_if_their_guide_changed() -> None:
    own, guided = attempt("wrong", "3"), attempt("wrong", "3", stage="guided")
    assert graded(own, guided, old=key("1", guide="another guide")) == [(0, "wrong")]


def test_another_verifier_needs_the_stored_text() -> None:
    stored = [attempt("wrong", "3"), attempt("wrong", "3", r"\boxed{3}", index=1), attempt("truncated", index=2)]
    assert graded(*stored, old=key("1", "number")) == [(1, "wrong"), (2, "truncated")]


@pytest.mark.parametrize(("num_kept", "indices"), [(1, [0, 1]), (2, [0])])
def test_correct_attempts_beyond_those_kept_need_no_tokens(num_kept: int, indices: list[int]) -> None:
    whole, bare = attempt("correct", "2", r"\boxed{2}"), attempt("correct", "2", index=1)
    assert [index for index, _ in graded(bare, whole, old=key("2.0"), num_kept=num_kept)] == indices
