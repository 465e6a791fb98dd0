"""Which correct responses are kept, which draws are spared, and that early draws change nothing but the waiting."""

import asyncio
import itertools
from typing import Any

import pytest

from ossft_ray.common.prompt_templates import Message
from ossft_ray.common.types import Attempt, Problem, Response, Rewritten, Stage
from ossft_ray.config import Rewrite
from ossft_ray.method.rewriting import Attempts, Judgement, rewrite_problem

EXPERT = "We add the two numbers forty and two with care, carry nothing at all, and so get 42."
PROBLEM = Problem("p1", "What is 40 + 2?", "42", EXPERT)


async def all_right(problem: Problem, response: str) -> Judgement:
    return Judgement(True, "correct")


def rewrite_guided(response: Response, calibrated: Any = None, **guided: Any) -> Attempt:
    """The first guided attempt, where the policy answers with `response`."""

    async def sample(stage: Stage, prompt: list[Message], index: int) -> Response:
        return response

    settings = Rewrite(stages=["guided"], guided_alignment={"num_samples": 1, **guided})
    rewritten = asyncio.run(rewrite_problem(PROBLEM, sample, all_right, settings, max_copied=calibrated))
    return rewritten.attempts[0]


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
        ("As the reference solution says, 42.", "stop", False, {"reference_phrases": []}, "correct"),
        (EXPERT, "stop", False, {}, "copies_reference"),
        (f"<think>{EXPERT}</think>It is plainly 42.", "stop", False, {}, "copies_reference"),
        (f"<think>{'Hm, let me see. ' * 40}</think>{EXPERT}", "stop", False, {}, "copies_reference"),
        (EXPERT, "stop", False, {"max_copied": 1.0}, "correct"),
        (EXPERT, "stop", False, {"copied_ngram": 50}, "copies_reference"),
    ],
)
def test_which_guided_responses_are_kept(
    text: str, finish_reason: str, in_thinking: bool, guided: dict[str, Any], reason: str
) -> None:
    attempt = rewrite_guided(Response(text, [1], finish_reason, in_thinking), **guided)
    assert (attempt.reason, attempt.correct) == (reason, reason == "correct")


@pytest.mark.parametrize("limit, reason", [(0.99, "copies_reference"), (1.0, "correct")])
def test_the_calibrated_limit_is_asked_for_where_it_is_auto(limit: float, reason: str) -> None:
    async def max_copied() -> float:
        return limit

    assert rewrite_guided(Response(EXPERT, [1], "stop"), max_copied).reason == reason


def test_a_self_response_may_say_what_it_likes() -> None:
    """It never saw the expert's solution."""

    async def sample(stage: Stage, prompt: list[Message], index: int) -> Response:
        return Response(f"The reference solution: {EXPERT}", [1], "stop")

    assert asyncio.run(rewrite_problem(PROBLEM, sample, all_right, Rewrite())).origin == "self"


def test_a_problem_without_an_answer_is_not_tried() -> None:
    async def sample(stage: Stage, prompt: list[Message], index: int) -> Response:
        raise AssertionError("nothing to verify it against")

    unchecked = Problem("p1", "Prove it.", "", EXPERT)
    rewritten = asyncio.run(rewrite_problem(unchecked, sample, all_right, Rewrite()))
    assert rewritten == Rewritten("expert", [], [])


class World:
    """Draws that take their scripted time; right where `right` says so; counts what was drawn."""

    def __init__(self, right: str, seconds: list[float] | None = None) -> None:
        self.right, self.seconds = right, seconds or [0.0] * len(right)
        self.drawn: list[int] = []
        self.in_flight = 0

    async def sample(self, stage: Stage, prompt: list[Message], index: int) -> Response:
        self.drawn.append(index)
        self.in_flight += 1
        try:
            await asyncio.sleep(self.seconds[index])
        finally:
            self.in_flight -= 1
        return Response(self.right[index], [index], "stop")

    async def verify(self, problem: Problem, response: str) -> Judgement:
        return Judgement(response == "+", "correct" if response == "+" else "wrong")

    def rewrite(self, made: Attempts | None = None, room: Any = None, **settings: Any) -> Rewritten:
        settings = {"stages": ["self"], "self_alignment": {"num_samples": len(self.right)}, **settings}
        return asyncio.run(
            rewrite_problem(PROBLEM, self.sample, self.verify, Rewrite(**settings), made=made, room=room)
        )


@pytest.mark.parametrize("wanted, kept, num_drawn", [(1, [1], 2), (2, [1, 3], 4), (3, [1, 3, 6], 8), (9, [1, 3, 6], 8)])
def test_the_first_correct_ones_by_index_are_kept(wanted: int, kept: list[int], num_drawn: int) -> None:
    world = World("-+-+--+-")
    rewritten = world.rewrite(keep_per_problem=wanted)
    assert [attempt.index for attempt in rewritten.all_kept] == kept
    assert len(world.drawn) == num_drawn


@pytest.mark.parametrize("num_known", range(9))
def test_attempts_made_before_are_not_made_again(num_known: int) -> None:
    made: Attempts = {}
    whole = World("-----+--").rewrite(made)
    known = dict(itertools.islice(made.items(), num_known))
    world = World("-----+--")
    assert world.rewrite(known) == whole
    assert len(world.drawn) == 8 - num_known


@pytest.mark.parametrize("right", ["+-------", "-+------", "--++----", "-----+-+", "--------"])
def test_early_draws_change_no_result(right: str) -> None:
    """With an engine that has room for five requests: what is returned is what waves alone return."""
    world = World(right, seconds=[0.004, 0.001, 0.003, 0.001, 0.002, 0.001, 0.002, 0.001])

    async def room() -> None:
        while world.in_flight >= 5:
            await asyncio.sleep(0.0005)
        await asyncio.sleep(0)

    early = world.rewrite(room=room)
    plain = World(right)
    assert early == plain.rewrite()
    assert len(world.drawn) >= len(plain.drawn)
    assert len(set(world.drawn)) == len(world.drawn)


def test_where_stored_attempts_suffice_nothing_begins_early() -> None:
    made: Attempts = {}
    World("-+------").rewrite(made)
    world = World("-+------")

    async def room() -> None:
        await asyncio.sleep(0)

    world.rewrite(made, room=room)
    assert world.drawn == []


def test_early_draws_shorten_the_wait() -> None:
    """Without room four waves follow one another; with it the fourth is done when the first is."""

    async def room() -> None:
        await asyncio.sleep(0)

    async def seconds(**keywords: Any) -> float:
        world = World("-------+", seconds=[0.05] * 8)
        began = asyncio.get_running_loop().time()
        settings = Rewrite(stages=["self"])
        await rewrite_problem(PROBLEM, world.sample, world.verify, settings, **keywords)
        return asyncio.get_running_loop().time() - began

    assert asyncio.run(seconds(room=room)) < 0.1 < 0.19 < asyncio.run(seconds())


def test_what_is_not_needed_any_more_is_given_up() -> None:
    """An early draw still in flight when a lower index is correct must not hold the result up, nor stay behind."""
    world = World("+-------", seconds=[0.01] + [60.0] * 7)

    async def room() -> None:
        await asyncio.sleep(0)

    rewritten = world.rewrite(room=room)
    assert [attempt.index for attempt in rewritten.attempts] == [0]
    assert world.in_flight == 0
