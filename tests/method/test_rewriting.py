"""The paper's algorithm on scripted answers: what is kept, what is drawn, what is shown to the policy."""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest

from ossft_ray.common.prompt_templates import Message
from ossft_ray.common.types import Problem, PromptTooLong, Response, Rewritten, Stage
from ossft_ray.config import Prompts, Rewrite
from ossft_ray.method.rewriting import Judgement, derive_seed, rewrite_problem, waves

PROBLEM = Problem("p1", "What is 40 + 2?", "42", "The expert says 42.")
PROMPTS = Prompts()


@dataclass
class Script:
    """What the policy answers, by stage and index: `+` right, `-` wrong, `~` right but cut off at the length limit.

    `slow` holds the seconds that a draw takes; drawn and verified record what was asked for, in order.
    """

    answers: dict[str, str]
    slow: dict[int, float] = field(default_factory=dict)
    too_long: tuple[str, ...] = ()
    drawn: list[tuple[str, int]] = field(default_factory=list)
    finished: list[int] = field(default_factory=list)
    verified: list[str] = field(default_factory=list)
    prompts: dict[str, list[Message]] = field(default_factory=dict)

    async def sample(self, stage: Stage, prompt: list[Message], index: int) -> Response:
        self.drawn.append((stage, index))
        self.prompts[stage] = prompt
        if stage in self.too_long:
            raise PromptTooLong("no room")
        await asyncio.sleep(self.slow.get(index, 0))
        self.finished.append(index)
        sign = self.answers[stage][index]
        return Response(f"{stage}{index}{sign}", [index], "length" if sign == "~" else "stop")

    async def verify(self, problem: Problem, response: str) -> Judgement:
        assert problem.answer == PROBLEM.answer
        self.verified.append(response)
        correct = response[-1] in "+~"
        return Judgement(correct, "correct" if correct else "wrong")

    def run(self, **settings: Any) -> Rewritten:
        return asyncio.run(rewrite_problem(PROBLEM, self.sample, self.verify, Rewrite(**settings), PROMPTS))


@pytest.mark.parametrize(
    "self_answers, guided_answers, settings, origin, kept, num_attempts",
    [
        ("+-------", "----", {}, "self", ("self", 0), 1),
        ("-+------", "----", {}, "self", ("self", 1), 2),
        ("--++----", "----", {}, "self", ("self", 2), 4),
        ("--------", "+---", {}, "guided", ("guided", 0), 9),
        ("--------", "---+", {}, "guided", ("guided", 3), 12),
        ("--------", "----", {}, "expert", None, 12),
        ("--------", "----", {"fallback": "drop"}, None, None, 12),
        ("--------", "+---", {"fallback": "drop"}, "guided", ("guided", 0), 9),
        ("++++++++", "++++", {"stages": []}, "expert", None, 0),
        ("++++++++", "++++", {"stages": [], "fallback": "drop"}, None, None, 0),
        ("--------", "++++", {"stages": ["self"]}, "expert", None, 8),
        ("++++++++", "-+--", {"stages": ["guided"]}, "guided", ("guided", 1), 2),
        ("---+---+", "++++", {"exhaustive": True}, "self", ("self", 3), 8),
        ("--------", "-++-", {"exhaustive": True}, "guided", ("guided", 1), 12),
        ("~-~~~~~~", "~+--", {}, "guided", ("guided", 1), 10),
        ("~~~~~~~~", "~~~~", {}, "expert", None, 12),
    ],
)
def test_what_is_kept(
    self_answers: str,
    guided_answers: str,
    settings: dict[str, Any],
    origin: str | None,
    kept: tuple[str, int] | None,
    num_attempts: int,
) -> None:
    rewritten = Script({"self": self_answers, "guided": guided_answers}).run(**settings)
    assert rewritten.origin == origin
    assert (rewritten.kept and (rewritten.kept.stage, rewritten.kept.index)) == kept
    assert len(rewritten.attempts) == num_attempts
    if rewritten.kept is not None:
        assert rewritten.kept in rewritten.attempts
        assert rewritten.kept.correct
        assert rewritten.kept.response.token_ids == [rewritten.kept.index]


@pytest.mark.parametrize(
    "first_correct, num_drawn",
    [(0, 1), (1, 2), (2, 4), (3, 4), (4, 8), (7, 8), (8, 10), (9, 10)],
)
def test_drawing_stops_after_the_first_wave_with_a_correct_one(first_correct: int, num_drawn: int) -> None:
    script = Script({"self": "-" * first_correct + "+" * (10 - first_correct)})
    rewritten = script.run(self_alignment={"num_samples": 10})
    assert script.drawn == [("self", index) for index in range(num_drawn)]
    assert [attempt.index for attempt in rewritten.attempts] == list(range(num_drawn))
    assert rewritten.kept is not None and rewritten.kept.index == first_correct


@pytest.mark.parametrize(
    "num_samples, exhaustive, sizes",
    [
        (1, False, [1]),
        (2, False, [1, 1]),
        (3, False, [1, 1, 1]),
        (4, False, [1, 1, 2]),
        (8, False, [1, 1, 2, 4]),
        (16, False, [1, 1, 2, 4, 8]),
        (8, True, [8]),
    ],
)
def test_waves_cover_every_index_once(num_samples: int, exhaustive: bool, sizes: list[int]) -> None:
    drawn = list(waves(num_samples, exhaustive))
    assert [len(wave) for wave in drawn] == sizes
    assert [index for wave in drawn for index in wave] == list(range(num_samples))


@pytest.mark.parametrize("settings", [{}, {"exhaustive": True}], ids=["waves", "exhaustive"])
def test_the_lowest_correct_index_is_kept_not_the_first_to_finish(settings: dict[str, Any]) -> None:
    answers = "--++----" if not settings else "+-++----"
    slowest = answers.index("+")
    script = Script({"self": answers}, slow={slowest: 0.05})
    rewritten = script.run(**settings)
    assert script.finished[-1] == slowest, "the script must let higher indices finish first"
    assert rewritten.kept is not None and rewritten.kept.index == slowest
    assert [attempt.index for attempt in rewritten.attempts] == sorted(index for _, index in script.drawn)


def test_a_truncated_response_is_never_verified_nor_kept() -> None:
    script = Script({"self": "~~~~~~~~", "guided": "~~~~"})
    rewritten = script.run()
    assert script.verified == []
    assert {(a.correct, a.reason, a.response.finish_reason) for a in rewritten.attempts} == {
        (False, "truncated", "length")
    }


@pytest.mark.parametrize(
    "too_long, guided, origin, reasons",
    [
        (("guided",), "++++", "expert", ["wrong"] * 8 + ["prompt_too_long"]),
        (("self",), "-+--", "guided", ["prompt_too_long", "wrong", "correct"]),
        (("self", "guided"), "++++", "expert", ["prompt_too_long", "prompt_too_long"]),
    ],
)
@pytest.mark.parametrize("exhaustive", [False, True])
def test_a_prompt_that_does_not_fit_skips_its_stage(
    too_long: tuple[str, ...], guided: str, origin: str, reasons: list[str], exhaustive: bool
) -> None:
    rewritten = Script({"self": "--------", "guided": guided}, too_long=too_long).run(exhaustive=exhaustive)
    assert rewritten.origin == origin
    seen = [attempt.reason for attempt in rewritten.attempts]
    assert [reason for reason in seen if reason == "prompt_too_long"] == ["prompt_too_long"] * len(too_long)
    assert exhaustive or seen == reasons


def test_only_the_guided_prompt_shows_the_expert_solution() -> None:
    script = Script({"self": "--------", "guided": "----"})
    script.run()
    shown = {stage: "\n".join(message["content"] for message in script.prompts[stage]) for stage in script.prompts}
    assert PROBLEM.expert_solution is not None
    assert PROBLEM.question in shown["self"] and PROBLEM.question in shown["guided"]
    assert PROBLEM.expert_solution not in shown["self"]
    assert PROBLEM.expert_solution in shown["guided"]


@pytest.mark.parametrize("hide_answer", [False, True])
def test_hide_answer_hides_the_answer_of_the_guide(hide_answer: bool) -> None:
    problem = Problem("p", "What is 40 + 2?", "42", r"Add them: \boxed{42}.")
    script = Script({"guided": "----"})
    settings = Rewrite(stages=["guided"], guided_alignment={"hide_answer": hide_answer})  # type: ignore[arg-type]
    asyncio.run(rewrite_problem(problem, script.sample, script.verify, settings, PROMPTS))
    assert (r"\boxed{42}" in script.prompts["guided"][-1]["content"]) is not hide_answer


def test_seeds_tell_every_draw_apart_and_stay_the_same() -> None:
    draws = [
        (seed, problem, stage, index)
        for seed in (0, 1)
        for problem in ("1", "11", "p")
        for stage in ("self", "guided")
        for index in range(12)
    ]
    seeds = [derive_seed(*draw) for draw in draws]
    assert len(set(seeds)) == len(draws)
    assert seeds == [derive_seed(*draw) for draw in draws]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed("1", "11") != derive_seed("11", "1")
    # written down: a release that draws other samples for the same seed must be a decision
    assert derive_seed(0, "00000000", "self", 0) == STABLE_SEED


STABLE_SEED = 5800850197751560089


@pytest.mark.parametrize("exhaustive", [False, True])
def test_the_kept_response_is_distributed_as_a_uniformly_chosen_correct_one(exhaustive: bool) -> None:
    """Responses of three kinds, a right short, a right long and a wrong one; the kept one's kind against the paper's.

    The paper keeps a uniformly random correct one of n, so P(kind | kept) = P(kind | correct). Short ones finish
    first and come three times as often as long ones.
    """
    rng = random.Random(7)
    kinds = {"short+": 0.3, "long+": 0.1, "wrong-": 0.6}
    counts: Counter[str] = Counter()

    async def sample(stage: Stage, prompt: list[Message], index: int) -> Response:
        (kind,) = rng.choices(list(kinds), list(kinds.values()))
        if kind == "long+":
            await asyncio.sleep(0)
        return Response(kind, [index], "stop")

    async def verify(problem: Problem, response: str) -> Judgement:
        return Judgement(response.endswith("+"), "")

    async def draw_all(num_problems: int) -> None:
        settings = Rewrite(stages=["self"], exhaustive=exhaustive)
        for _ in range(num_problems):
            rewritten = await rewrite_problem(PROBLEM, sample, verify, settings, PROMPTS)
            counts[rewritten.kept.response.text if rewritten.kept else "none"] += 1

    num_problems = 4000
    asyncio.run(draw_all(num_problems))
    nothing = 0.6**8
    expected = {"short+": 0.75 * (1 - nothing), "long+": 0.25 * (1 - nothing), "none": nothing}
    chi_square = sum((counts[kind] - num_problems * p) ** 2 / (num_problems * p) for kind, p in expected.items())
    assert chi_square < 13.8, counts  # 99.9% quantile of two degrees of freedom
