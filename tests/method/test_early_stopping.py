"""Stopping early changes what is drawn, not what is kept: the paper's uniformly random correct one of n.

A simulated world: problems of three difficulties, responses of several kinds and lengths, both of which depend on
whether they are correct and on how hard the problem is. A clock that only the responses' lengths move lets them
finish in the order in which an engine would finish them. What `rewrite_problem` keeps, by kind and length, is compared
with the paper's rule by Pearson's chi-square; the first correct one to finish is compared likewise, and fails.
"""

import asyncio
import json
import random
import selectors
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ossft_ray.common.prompt_templates import Message
from ossft_ray.common.types import Problem, Response, Stage
from ossft_ray.config import Rewrite
from ossft_ray.method.rewriting import Judgement, rewrite_problem

ROOT = Path(__file__).resolve().parents[2]
NUM_SAMPLES = 8
SECONDS_PER_TOKEN = 0.01

PASS_RATES = {"easy": 0.4, "middling": 0.3, "hard": 0.2}
TERSE_SHARE = {"easy": 0.6, "middling": 0.5, "hard": 0.4}  # of the correct responses; the others are careful
LENGTHS = {"terse": (100, 200), "careful": (400, 800), "wrong": (200, 800)}
SHORTER_SHARE = {"terse": 0.6, "careful": 0.4, "wrong": 0.3}  # of a kind's responses

# Five outcomes a difficulty (two kinds of two lengths, and nothing kept), so 3 × 4 degrees of freedom. A right
# program exceeds this 99.9% quantile for one seed in a thousand, and the seed is fixed.
CHI_SQUARE_12_QUANTILE = 32.91


class Sample(NamedTuple):
    kind: str  # terse | careful | wrong
    length: int


Cell = Sample | None  # what was kept
Counts = dict[str, Counter[Cell]]  # by difficulty


World = dict[str, list[list[Sample]]]
"""All responses that a policy would give: [difficulty][problem][index]."""


@pytest.fixture(scope="module")
def world() -> World:
    rng = random.Random(20250915)

    def sample(difficulty: str) -> Sample:
        kind = "wrong"
        if rng.random() < PASS_RATES[difficulty]:
            kind = "terse" if rng.random() < TERSE_SHARE[difficulty] else "careful"
        return Sample(kind, LENGTHS[kind][rng.random() > SHORTER_SHARE[kind]])

    return {
        difficulty: [[sample(difficulty) for _ in range(NUM_SAMPLES)] for _ in range(4000)] for difficulty in PASS_RATES
    }


def expected_shares(difficulty: str) -> dict[Cell, float]:
    """By the paper's rule: P(kind, length | correct), wherever any of n is correct."""
    nothing = (1 - PASS_RATES[difficulty]) ** NUM_SAMPLES
    shares: dict[Cell, float] = {None: nothing}
    for kind, share in (("terse", TERSE_SHARE[difficulty]), ("careful", 1 - TERSE_SHARE[difficulty])):
        shorter, longer = LENGTHS[kind]
        shares[Sample(kind, shorter)] = (1 - nothing) * share * SHORTER_SHARE[kind]
        shares[Sample(kind, longer)] = (1 - nothing) * share * (1 - SHORTER_SHARE[kind])
    return shares


def chi_square(counts: Counts) -> float:
    """Pearson's statistic against the exact expectation."""
    total = 0.0
    for difficulty, counted in counts.items():
        for cell, share in expected_shares(difficulty).items():
            expected = share * counted.total()
            assert expected > 10, "too few for chi-square"
            total += (counted[cell] - expected) ** 2 / expected
    return total


def chi_square_between(one: Counts, other: Counts) -> float:
    """Pearson's statistic for two tables of the same size. Those of one world are alike, which makes it smaller."""
    return sum(
        (one[difficulty][cell] - other[difficulty][cell]) ** 2 / (one[difficulty][cell] + other[difficulty][cell])
        for difficulty in PASS_RATES
        for cell in one[difficulty] | other[difficulty]
    )


class SimulatedTime(selectors.DefaultSelector):
    """Where the event loop would wait for the clock, the clock jumps."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everything waits and no timer runs"
        self.now += timeout
        return super().select(0)


def run_on_simulated_time(coroutine: Coroutine[Any, Any, Any]) -> Any:
    clock = SimulatedTime()

    def new_loop() -> asyncio.AbstractEventLoop:
        loop = asyncio.SelectorEventLoop(clock)
        loop.time = lambda: clock.now  # type: ignore[method-assign]
        return loop

    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(coroutine)


async def verify(problem: Problem, response: str) -> Judgement:
    return Judgement(not response.startswith("wrong"), "")


async def always_room() -> None:
    """An idle engine: every draw may begin early."""


async def generate(sample: Sample) -> Response:
    await asyncio.sleep(sample.length * SECONDS_PER_TOKEN)
    return Response(f"{sample.kind} {sample.length}", [0] * sample.length, "stop")


async def rewrite_one(samples: list[Sample], **how: Any) -> Cell:
    """What `rewrite_problem` keeps."""
    room = always_room if how.pop("early", False) else None
    settings = Rewrite.model_validate({"stages": ["self"], **how})

    async def sample(stage: Stage, prompt: list[Message], index: int) -> Response:
        return await generate(samples[index])

    problem = Problem("p", "What is 40 + 2?", "42", "It is 42.")
    rewritten = await rewrite_problem(problem, sample, verify, settings, room=room)
    if rewritten.kept is None or rewritten.kept.response is None:
        return None
    kind, length = rewritten.kept.response.text.split()
    return Sample(kind, int(length))


async def first_to_finish(samples: list[Sample]) -> Cell:
    """What must not be kept: all n begin at once, and the first correct one that comes back wins."""
    finished: list[Sample] = []

    async def note(sample: Sample) -> None:
        await generate(sample)
        finished.append(sample)

    await asyncio.gather(*map(note, samples))
    return next((sample for sample in finished if sample.kind != "wrong"), None)


async def first_to_finish_of_a_wave(samples: list[Sample]) -> Cell:
    """The same fault, hidden in waves."""
    for start, end in ((0, 1), (1, 2), (2, 4), (4, 8)):
        if (kept := await first_to_finish(samples[start:end])) is not None:
            return kept
    return None


def kept_of(world: World, keep: Callable[[list[Sample]], Coroutine[Any, Any, Cell]]) -> Counts:
    async def keep_all() -> Counts:
        return {
            difficulty: Counter(await asyncio.gather(*map(keep, problems))) for difficulty, problems in world.items()
        }

    counts: Counts = run_on_simulated_time(keep_all())
    return counts


def papers_choice(world: World) -> Counts:
    """The paper's rule, taken at its word: of all n samples, a uniformly random correct one."""
    rng = random.Random(1)
    counts: Counts = {}
    for difficulty, problems in world.items():
        correct = [[sample for sample in samples if sample.kind != "wrong"] for samples in problems]
        counts[difficulty] = Counter(rng.choice(samples) if samples else None for samples in correct)
    return counts


@pytest.mark.parametrize(
    "how, num_problems",
    [({}, 4000), ({"exhaustive": True}, 1000), ({"early": True}, 1000)],
    ids=["waves", "exhaustive", "early draws"],
)
def test_the_kept_response_is_distributed_as_the_papers(world: World, how: dict[str, Any], num_problems: int) -> None:
    part = {difficulty: problems[:num_problems] for difficulty, problems in world.items()}
    kept = kept_of(part, lambda samples: rewrite_one(samples, **how))
    assert sum(counts.total() for counts in kept.values()) == 3 * num_problems
    assert chi_square(kept) < CHI_SQUARE_12_QUANTILE
    assert chi_square_between(kept, papers_choice(part)) < CHI_SQUARE_12_QUANTILE


def test_the_papers_rule_itself_passes(world: World) -> None:
    assert chi_square(papers_choice(world)) < CHI_SQUARE_12_QUANTILE


@pytest.mark.parametrize(
    "keep, num_problems, least",
    [(first_to_finish, 1000, 20 * CHI_SQUARE_12_QUANTILE), (first_to_finish_of_a_wave, 4000, CHI_SQUARE_12_QUANTILE)],
)
def test_the_first_to_finish_is_distributed_otherwise(
    world: World, keep: Callable[[list[Sample]], Coroutine[Any, Any, Cell]], num_problems: int, least: float
) -> None:
    part = {difficulty: problems[:num_problems] for difficulty, problems in world.items()}
    kept = kept_of(part, keep)
    assert chi_square(kept) > least
    for difficulty, counts in kept.items():
        terse = sum(count for cell, count in counts.items() if cell and cell.kind == "terse")
        assert terse / (counts.total() - counts[None]) > TERSE_SHARE[difficulty], "it must favour short responses"


def test_finishing_order_is_that_of_the_lengths(world: World) -> None:
    """The clock of these tests: short responses come back first, whatever their index."""
    finished: list[int] = []

    async def note(sample: Sample) -> None:
        await generate(sample)
        finished.append(sample.length)

    async def note_all() -> None:
        await asyncio.gather(*map(note, samples))

    samples = world["hard"][0]
    run_on_simulated_time(note_all())
    assert finished == sorted(finished) != [sample.length for sample in samples]


def test_the_benchmark_runs_and_meets_its_target() -> None:
    program = [sys.executable, str(ROOT / "benchmarks" / "early_stopping.py"), "--problems", "600"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    *table, last = done.stdout.splitlines()
    figures = json.loads(last)
    assert list(figures)[:9] == [f"token_ratio_at_pass_rate_0.{tenth}" for tenth in range(1, 10)]
    assert figures["token_ratio_at_pass_rate_0.5"] <= 0.33
    for tenth in range(1, 10):
        # Waves of 1, 1, 2 and 4: each is drawn if nothing before it was correct.
        wrong = 1 - tenth / 10
        draws = 1 + wrong + 2 * wrong**2 + 4 * wrong**4
        assert figures[f"token_ratio_at_pass_rate_0.{tenth}"] == pytest.approx(draws / 8, rel=0.2)
    assert sum(line.split()[:1] == [f"0.{tenth}"] for line in table for tenth in range(1, 10)) == 9
