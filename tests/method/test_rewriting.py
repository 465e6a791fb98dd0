"""The paper's algorithm on scripted answers: what is kept, what is drawn, what is shown to the policy."""

import asyncio
import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest

from ossft_ray.common.prompt_templates import Message
from ossft_ray.common.types import Attempt, Problem, PromptTooLong, Response, RewriteResult, Stage
from ossft_ray.common.verdict import Verdict
from ossft_ray.config import Prompts, Rewrite
from ossft_ray.method.rewriting import derive_seed, rewrite_problem, waves
from tests.method import simulated_time

PROBLEM = Problem("p1", "What is 40 + 2?", "42", "The expert adds.")


@dataclass
class Script:
    """What the policy answers, by stage and index: `+` right, `-` wrong, `~` right but cut off at the length limit.

    `seconds` says how long a response takes, by index (simulated; 0 by default). The other fields record what
    happened, in order.
    """

    answers: dict[str, str]
    seconds: dict[int, float] = field(default_factory=dict)
    too_long: tuple[str, ...] = ()
    drawn: list[tuple[str, int]] = field(default_factory=list)
    finished: list[int] = field(default_factory=list)
    verified: list[str] = field(default_factory=list)
    prompts: dict[str, list[Message]] = field(default_factory=dict)
    new_attempts: dict[tuple[Stage, int], Attempt] = field(default_factory=dict)
    in_flight: int = 0
    elapsed: float = 0.0

    async def sample(self, stage: Stage, prompt: list[Message], index: int) -> Response:
        self.drawn.append((stage, index))
        self.prompts[stage] = prompt
        if stage in self.too_long:
            raise PromptTooLong("no room")
        self.in_flight += 1
        try:
            await asyncio.sleep(self.seconds.get(index, 0))
        finally:
            self.in_flight -= 1
        self.finished.append(index)
        sign = self.answers[stage][index]
        return Response(f"40 and 2: {stage}{index}{sign}", [index], "length" if sign == "~" else "stop")

    async def verify(self, problem: Problem, response: str) -> Verdict:
        self.verified.append(response)
        correct = response[-1] in "+~"
        return Verdict(correct, "correct" if correct else "wrong")

    def run(
        self, problem: Problem = PROBLEM, known_attempts: Any = None, spare_capacity: Any = None, **settings: Any
    ) -> RewriteResult:
        def note(attempt: Attempt) -> None:
            self.new_attempts[attempt.stage, attempt.index] = attempt

        options = {"known_attempts": known_attempts, "on_attempt": note, "spare_capacity": spare_capacity}
        result: RewriteResult
        result, self.elapsed = simulated_time.run(
            rewrite_problem(problem, self.sample, self.verify, Rewrite(**settings), Prompts(), **options)
        )
        assert self.in_flight == 0, "no request is left behind"
        return result


@pytest.mark.parametrize(
    "self_answers, guided_answers, settings, origin, kept, num_attempts",
    [
        ("+-------", "----", {}, "self", [("self", 0)], 1),
        ("-+------", "----", {}, "self", [("self", 1)], 2),
        ("--++----", "----", {}, "self", [("self", 2)], 4),
        ("--------", "+---", {}, "guided", [("guided", 0)], 9),
        ("--------", "---+", {}, "guided", [("guided", 3)], 12),
        ("--------", "----", {}, "expert", [], 12),
        ("--------", "----", {"fallback": "drop"}, None, [], 12),
        ("--------", "+---", {"fallback": "drop"}, "guided", [("guided", 0)], 9),
        ("++++++++", "++++", {"stages": []}, "expert", [], 0),
        ("++++++++", "++++", {"stages": [], "fallback": "drop"}, None, [], 0),
        ("--------", "++++", {"stages": ["self"]}, "expert", [], 8),
        ("++++++++", "-+--", {"stages": ["guided"]}, "guided", [("guided", 1)], 2),
        ("---+---+", "++++", {"exhaustive": True}, "self", [("self", 3)], 8),
        ("--------", "-++-", {"exhaustive": True}, "guided", [("guided", 1)], 12),
        ("~-~~~~~~", "~+--", {}, "guided", [("guided", 1)], 10),
        ("~~~~~~~~", "~~~~", {}, "expert", [], 12),
        ("-+-+--+-", "----", {"keep_per_problem": 1}, "self", [("self", 1)], 2),
        ("-+-+--+-", "----", {"keep_per_problem": 2}, "self", [("self", 1), ("self", 3)], 4),
        ("-+-+--+-", "----", {"keep_per_problem": 3}, "self", [("self", 1), ("self", 3), ("self", 6)], 8),
        ("-+-+--+-", "----", {"keep_per_problem": 9}, "self", [("self", 1), ("self", 3), ("self", 6)], 8),
    ],
)
def test_what_is_kept(
    self_answers: str,
    guided_answers: str,
    settings: dict[str, Any],
    origin: str | None,
    kept: list[tuple[str, int]],
    num_attempts: int,
) -> None:
    result = Script({"self": self_answers, "guided": guided_answers}).run(**settings)
    assert result.origin == origin
    assert [(attempt.stage, attempt.index) for attempt in result.kept] == kept
    assert len(result.attempts) == num_attempts
    for attempt in result.kept:
        assert attempt in result.attempts and attempt.correct
        assert attempt.response is not None and attempt.response.token_ids == [attempt.index]


def test_a_problem_without_an_answer_is_never_sampled() -> None:
    script = Script({"self": "++++++++", "guided": "++++"})
    assert script.run(Problem("p1", "Prove it.", "", "The expert's proof.")) == RewriteResult("expert", [], [])
    assert script.drawn == []


@pytest.mark.parametrize(
    "first_correct, num_drawn",
    [(0, 1), (1, 2), (2, 4), (3, 4), (4, 8), (7, 8), (8, 10), (9, 10)],
)
def test_drawing_stops_after_the_first_wave_with_a_correct_one(first_correct: int, num_drawn: int) -> None:
    script = Script({"self": "-" * first_correct + "+" * (10 - first_correct)})
    result = script.run(self_alignment={"num_samples": 10})
    assert script.drawn == [("self", index) for index in range(num_drawn)]
    assert [attempt.index for attempt in result.attempts] == list(range(num_drawn))
    assert [attempt.index for attempt in result.kept] == [first_correct]


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


@pytest.mark.parametrize("answers, exhaustive", [("--++----", False), ("+-++----", True)], ids=["waves", "exhaustive"])
def test_the_lowest_correct_index_is_kept_not_the_first_to_finish(answers: str, exhaustive: bool) -> None:
    slowest = answers.index("+")
    script = Script({"self": answers}, seconds={slowest: 1.0})
    result = script.run(exhaustive=exhaustive)
    assert script.finished[-1] == slowest, "the script must let higher indices finish first"
    assert [attempt.index for attempt in result.kept] == [slowest]
    assert [attempt.index for attempt in result.attempts] == sorted(index for _, index in script.drawn)


def test_a_truncated_response_is_neither_verified_nor_kept() -> None:
    script = Script({"self": "~~~~~~~~", "guided": "~~~~"})
    result = script.run()
    assert script.verified == []
    assert {(a.correct, a.reason, a.finish_reason) for a in result.attempts} == {(False, "truncated", "length")}


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
    result = Script({"self": "--------", "guided": guided}, too_long=too_long).run(exhaustive=exhaustive)
    assert result.origin == origin
    seen = [attempt.reason for attempt in result.attempts]
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
    script = Script({"guided": "----"})
    problem = Problem("p", "What is 40 + 2?", "42", r"Add them: \boxed{42}.")
    script.run(problem, stages=["guided"], guided_alignment={"hide_answer": hide_answer})
    assert (r"\boxed{42}" in script.prompts["guided"][-1]["content"]) is not hide_answer


@pytest.mark.parametrize("num_known", range(9))
def test_known_attempts_are_not_made_again(num_known: int) -> None:
    first = Script({"self": "-----+--"})
    expected = first.run()
    script = Script({"self": "-----+--"})
    assert script.run(known_attempts=dict(itertools.islice(first.new_attempts.items(), num_known))) == expected
    assert len(script.drawn) == len(script.new_attempts) == 8 - num_known


async def always_spare() -> None:
    """An idle engine: every sample may begin early."""
    await asyncio.sleep(0)


@pytest.mark.parametrize("answers", ["+-------", "-+------", "--++----", "-----+-+", "--------"])
def test_early_draws_change_no_result(answers: str) -> None:
    """With spare capacity for up to five requests, the result is the one that waves alone give."""
    seconds = dict(enumerate([0.004, 0.001, 0.003, 0.001, 0.002, 0.001, 0.002, 0.001]))
    script, plain = (Script({"self": answers}, seconds) for _ in range(2))

    async def fewer_than_five() -> None:
        while script.in_flight >= 5:
            await asyncio.sleep(0.0005)
        await asyncio.sleep(0)

    assert script.run(spare_capacity=fewer_than_five, stages=["self"]) == plain.run(stages=["self"])
    assert len(plain.drawn) <= len(script.drawn) == len(set(script.drawn))


def test_nothing_begins_early_if_known_attempts_suffice() -> None:
    first = Script({"self": "-+------"})
    first.run()
    script = Script({"self": "-+------"})
    script.run(known_attempts=first.new_attempts, spare_capacity=always_spare)
    assert script.drawn == []


@pytest.mark.parametrize("spare_capacity, num_rounds", [(None, 4), (always_spare, 1)], ids=["busy", "idle"])
def test_early_draws_shorten_the_wait(spare_capacity: Any, num_rounds: int) -> None:
    """Responses take a second each: four waves follow one another, or all eight samples run side by side."""
    script = Script({"self": "-------+"}, seconds=dict.fromkeys(range(8), 1.0))
    script.run(spare_capacity=spare_capacity)
    assert script.elapsed == num_rounds


def test_no_early_samples_are_drawn_from_an_external_model() -> None:
    script = Script({"external": "-+------"}, seconds=dict.fromkeys(range(8), 1.0))
    settings = {"stages": ["external"], "external_alignment": {"model": "teacher", "num_samples": 8}}
    result = script.run(spare_capacity=always_spare, **settings)
    assert (result.origin, script.drawn) == ("external", [("external", 0), ("external", 1)])
    assert PROBLEM.expert_solution is not None
    assert PROBLEM.expert_solution[:9] in script.prompts["external"][-1]["content"]


def test_samples_that_are_no_longer_needed_are_cancelled() -> None:
    """An early sample must not delay the result once a lower index is correct."""
    script = Script({"self": "+-------"}, seconds={0: 1.0} | dict.fromkeys(range(1, 8), 60.0))
    result = script.run(spare_capacity=always_spare)
    assert [attempt.index for attempt in result.attempts] == [0]
    assert (len(script.drawn), script.finished, script.elapsed) == (8, [0], 1.0)


STABLE_SEED = 5800850197751560089


def test_seeds_tell_every_sample_apart_and_stay_the_same() -> None:
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
    # Written down, so that a release that draws other samples for the same seed is a deliberate decision.
    assert derive_seed(0, "00000000", "self", 0) == STABLE_SEED
