"""Acceptance of responses: finished, correct and, in the guided stage, not giving the guide away."""

import asyncio
from typing import Any

import pytest

from ossft_ray.common.types import Problem, Response, Stage
from ossft_ray.common.verdict import Verdict
from ossft_ray.config import ExternalAlignment, GuidedAlignment, Rewrite
from ossft_ray.method.acceptance import assess

EXPERT = "We add the two numbers forty and two with care, carry nothing at all, and so get 42."
PROBLEM = Problem("p1", "What is 40 + 2?", "42", EXPERT)


def verdict_on(
    response: Response,
    stage: Stage = "guided",
    right: bool = True,
    steps: Any = "guided",
    external: ExternalAlignment | None = None,
    **guided: Any,
) -> Verdict:
    async def verify(problem: Problem, text: str) -> Verdict:
        return Verdict(right, "correct" if right else "wrong", "42")

    sections = {"guided_alignment": GuidedAlignment(**guided), "external_alignment": external or ExternalAlignment()}
    settings = Rewrite(check_steps=steps, **sections)
    return asyncio.run(assess(response, stage, PROBLEM, verify, settings))


@pytest.mark.parametrize(
    "text, finish_reason, in_thinking, guided, reason",
    [
        ("40 and 2 make 42.", "stop", False, {}, "correct"),
        ("40 and 2 make 42 42 42", "repetition", False, {}, "repetition"),
        ("40 and 2 make", "length", False, {}, "truncated"),
        ("<think>40 and 2 make 42.", "stop", False, {}, "truncated"),
        ("40 and 2 make 42.", "stop", True, {}, "truncated"),
        ("Hm.</think>40 and 2 make 42.", "stop", True, {}, "correct"),
        ("As the reference solution says, 42.", "stop", False, {}, "mentions_reference"),
        ("<think>The reference solution says so.</think>It is 42.", "stop", False, {}, "mentions_reference"),
        ("Teacher says 42.", "stop", False, {"reference_phrases": ["teacher says"]}, "mentions_reference"),
        ("As the reference solution says, 40 and 2 make 42.", "stop", False, {"reference_phrases": []}, "correct"),
        (EXPERT, "stop", False, {}, "copies_reference"),
        (EXPERT, "stop", False, {"max_copied": 0.99}, "copies_reference"),
        (f"<think>{EXPERT}</think>It is plainly 42.", "stop", False, {}, "copies_reference"),
        (f"<think>{'Hm, let me see. ' * 40}</think>{EXPERT}", "stop", False, {}, "copies_reference"),
        (EXPERT, "stop", False, {"max_copied": 1.0}, "contains_reference"),
        (EXPERT, "stop", False, {"max_copied": 1.0, "max_contained": 1.0}, "no_derivation"),
        (f"40 and 2.{' It is plain.' * 40} {EXPERT}", "stop", False, {}, "contains_reference"),
        (f"40 and 2.{' It is plain.' * 40} {EXPERT}", "stop", False, {"max_contained": 1.0}, "correct"),
        (EXPERT, "stop", False, {"copied_ngram": 50}, "copies_reference"),
        ("It is plainly 42.", "stop", False, {}, "no_derivation"),
        ("It is plainly 42.", "stop", False, {"require_derivation": False}, "correct"),
        ("", "no_response", False, {}, "no_response"),
        ("40 + 2 = 43, no, 40 + 2 = 42.", "stop", False, {}, "wrong_step"),
        ("<think>40 + 2 = 43? No.</think>40 + 2 = 42.", "stop", False, {}, "correct"),
    ],
)
def test_which_guided_responses_are_kept(
    text: str, finish_reason: str, in_thinking: bool, guided: dict[str, Any], reason: str
) -> None:
    verdict = verdict_on(Response(text, [1], finish_reason, in_thinking), **guided)
    assert (verdict.reason, verdict.correct) == (reason, reason == "correct")
    assert verdict.extracted == (None if reason in ("repetition", "truncated", "no_response") else "42")


def test_a_wrong_response_is_wrong_whatever_it_copies() -> None:
    assert verdict_on(Response(EXPERT, [1], "stop"), right=False) == Verdict(False, "wrong", "42")


def test_a_self_response_may_contain_anything() -> None:
    """It never saw the expert's solution."""
    assert verdict_on(Response(f"The reference solution: {EXPERT}", [1], "stop"), "self").correct


@pytest.mark.parametrize(
    "text, gap, max_gap, reason",
    [
        ("40 and 2 make 42.", 1.5, None, "correct"),
        ("40 and 2 make 42.", None, 1.0, "correct"),
        ("40 and 2 make 42.", 1.0, 1.0, "correct"),
        ("40 and 2 make 42.", 1.5, 1.0, "too_far"),
        (EXPERT, 1.5, 1.0, "copies_reference"),
    ],
)
def test_an_external_response_must_be_sound_and_within_the_gap(
    text: str, gap: float | None, max_gap: float | None, reason: str
) -> None:
    response = Response(text, [1], "stop", gap=gap)
    assert verdict_on(response, "external", external=ExternalAlignment(max_gap=max_gap)).reason == reason


@pytest.mark.parametrize(
    "steps, stage, reason",
    [
        ("guided", "self", "correct"),
        ("all", "self", "wrong_step"),
        ("off", "self", "correct"),
        ("guided", "guided", "wrong_step"),
        ("all", "guided", "wrong_step"),
        ("off", "guided", "correct"),
        ("guided", "external", "wrong_step"),
    ],
)
def test_whose_steps_are_checked(steps: str, stage: Stage, reason: str) -> None:
    response = Response("40 - 2 = 37 and 40 + 2 = 42.", [1], "stop")
    assert verdict_on(response, stage, steps=steps).reason == reason
