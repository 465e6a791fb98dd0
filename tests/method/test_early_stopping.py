"""Early stopping changes what is drawn, not what is kept: a uniformly random correct one of n, as in the paper.

The tests simulate problems of three difficulties, and responses whose kind and length depend on correctness and
difficulty. On a simulated clock responses finish in the order of their lengths, as an engine would finish them. What
`rewrite_problem` keeps, by kind and length, is compared with the paper's rule by Pearson's chi-square. The first
correct response to finish is compared in the same way, and fails.
"""

import asyncio
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ossft_ray.common.prompt_templates import Message
from ossft_ray.common.types import Problem, Response, Stage
from ossft_ray.common.verdict import Verdict
from ossft_ray.config import Rewrite
from ossft_ray.method.rewriting import rewrite_problem
from tests.method import simulated_time

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).resolve().parents[2]
NUM_SAMPLES = 8
SECONDS_PER_TOKEN = 0.01

PASS_RATES = {"easy": 0.4, "middling": 0.3, "hard": 0.2}
TERSE_SHARE = {"easy": 0.6, "middling": 0.5, "hard": 0.4}  # among correct responses; the others are careful
LENGTHS = {"terse": (100, 200), "careful": (400, 800), "wrong": (200, 800)}
SHORTER_SHARE = {"terse": 0.6, "careful": 0.4, "wrong": 0.3}  # of a kind's responses

# Five outcomes per difficulty (two kinds of two lengths, and nothing kept) give 3 × 4 degrees of freedom. A correct
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
    """The paper's rule: P(kind, length | correct), if any of n is correct."""
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
    """Pearson's statistic for two tables of the same size. It is smaller for tables drawn from the same world."""
    return sum(
        (one[difficulty][cell] - other[difficulty][cell]) ** 2 / (one[difficulty][cell] + other[difficulty][cell])
        for difficulty in PASS_RATES
        for cell in one[difficulty] | other[difficulty]
    )


async def verify(problem: Problem, response: str) -> Verdict:
    return Verdict(not response.startswith("wrong"), "")


async def always_spare() -> None:
    """An idle engine: every sample may begin early."""


async def generate(sample: Sample) -> Response:
    await asyncio.sleep(sample.length * SECONDS_PER_TOKEN)
    return Response(f"{sample.kind} {sample.length}", [0] * sample.length, "stop")


async def rewrite_one(samples: list[Sample], **how: Any) -> Cell:
    """What `rewrite_problem` keeps."""
    spare_capacity = always_spare if how.pop("early", False) else None
    settings = Rewrite.model_validate({"stages": ["self"], **how})

    async def sample(stage: Stage, prompt: list[Message], index: int) -> Response:
        return await generate(samples[index])

    problem = Problem("p", "What is 40 + 2?", "42", "It is 42.")
    result = await rewrite_problem(problem, sample, verify, settings, spare_capacity=spare_capacity)
    for attempt in result.kept:
        assert attempt.response is not None
        kind, length = attempt.response.text.split()
        return Sample(kind, int(length))
    return None


async def first_to_finish(samples: list[Sample]) -> Cell:
    """A wrong rule: all n samples begin at once, and the first correct response to finish is kept."""
    finished: list[Sample] = []

    async def note(sample: Sample) -> None:
        await generate(sample)
        finished.append(sample)

    await asyncio.gather(*map(note, samples))
    return next((sample for sample in finished if sample.kind != "wrong"), None)


async def first_to_finish_of_a_wave(samples: list[Sample]) -> Cell:
    """The same wrong rule within each wave."""
    for start, end in ((0, 1), (1, 2), (2, 4), (4, 8)):
        if (kept := await first_to_finish(samples[start:end])) is not None:
            return kept
    return None


def kept_of(world: World, keep: Callable[[list[Sample]], Coroutine[Any, Any, Cell]]) -> Counts:
    async def keep_all() -> Counts:
        return {
            difficulty: Counter(await asyncio.gather(*map(keep, problems))) for difficulty, problems in world.items()
        }

    counts: Counts
    counts, _ = simulated_time.run(keep_all())
    return counts


def papers_choice(world: World) -> Counts:
    """The paper's rule to the letter: a uniformly random correct one of all n samples."""
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
def test_the_first_to_finish_has_a_different_distribution(
    world: World, keep: Callable[[list[Sample]], Coroutine[Any, Any, Cell]], num_problems: int, least: float
) -> None:
    part = {difficulty: problems[:num_problems] for difficulty, problems in world.items()}
    kept = kept_of(part, keep)
    assert chi_square(kept) > least
    for difficulty, counts in kept.items():
        terse = sum(count for cell, count in counts.items() if cell and cell.kind == "terse")
        assert terse / (counts.total() - counts[None]) > TERSE_SHARE[difficulty], "it must favour short responses"


def test_short_responses_finish_first_on_the_simulated_clock(world: World) -> None:
    finished: list[int] = []

    async def note(sample: Sample) -> None:
        await generate(sample)
        finished.append(sample.length)

    async def note_all() -> None:
        await asyncio.gather(*map(note, samples))

    samples = world["hard"][0]
    simulated_time.run(note_all())
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
        # Waves of 1, 1, 2 and 4: each is drawn if no earlier response was correct.
        wrong = 1 - tenth / 10
        draws = 1 + wrong + 2 * wrong**2 + 4 * wrong**4
        assert figures[f"token_ratio_at_pass_rate_0.{tenth}"] == pytest.approx(draws / 8, rel=0.2)
    assert sum(line.split()[:1] == [f"0.{tenth}"] for line in table for tenth in range(1, 10)) == 9
