"""Results of benchmarks against values worked out by hand."""

import asyncio
import itertools
import math
import random
import statistics

import numpy as np
import pytest
from scipy.special import betainc

from ossft_ray.common.verdict import Verdict
from ossft_ray.method.metrics import (
    BenchmarkResult,
    Sample,
    benchmark_result,
    majority,
    mean_interval,
    paired_difference,
    pass_at_k,
    share_votes,
    standard_error,
)

T, F = True, False


def result_of(correct: list[list[bool]], extracted: list[list[str | None]]) -> BenchmarkResult:
    return benchmark_result(
        [[Sample(*pair) for pair in zip(*rows, strict=True)] for rows in zip(correct, extracted, strict=True)]
    )


@pytest.mark.parametrize(
    "correct, extracted, avg, stderr, pass_at, maj",
    [
        # means 1 and 0: their standard deviation is sqrt(1/2), over sqrt(2) problems
        ([[T, T], [F, F]], [["1", "1"], ["2", "3"]], 0.5, 0.5, {1: 0.5, 2: 0.5}, 0.5),
        ([[T, F], [F, T]], [["1", "2"], ["3", "1"]], 0.5, 0.0, {1: 0.5, 2: 1.0}, 0.5),
        # pass@2 of 4 samples with 1 right: 1 - C(3,2)/C(4,2) = 1/2
        ([[T, F, F, F]], [["1", "2", "2", None]], 0.25, 0.0, {1: 0.25, 2: 0.5, 4: 1.0}, 0.0),
        # three samples: k = 1, 2, 3; means 1/3, 2/3, 0: sd = 1/3, over sqrt(3)
        (
            [[T, F, F], [T, T, F], [F, F, F]],
            [["1", "2", None], ["1", "1", "2"], [None, None, None]],
            1 / 3,
            1 / 3 / math.sqrt(3),
            {1: 1 / 3, 2: (2 / 3 + 1 + 0) / 3, 3: 2 / 3},
            (0.5 + 1 + 0) / 3,
        ),
        ([[T]], [["1"]], 1.0, 0.0, {1: 1.0}, 1.0),
    ],
)
def test_benchmark_result(
    correct: list[list[bool]],
    extracted: list[list[str | None]],
    avg: float,
    stderr: float,
    pass_at: dict[int, float],
    maj: float,
) -> None:
    found = result_of(correct, extracted)
    assert found.avg == pytest.approx(avg)
    assert found.stderr == pytest.approx(stderr)
    assert found.pass_at == pytest.approx(pass_at)
    assert found.maj == pytest.approx(maj)
    assert (found.problems, found.samples) == (len(correct), len(correct[0]))


@pytest.mark.parametrize(
    "correct, extracted, expected",
    [
        ([T, T, F], ["1", "1", "2"], 1.0),
        ([T, F, F], ["1", "2", "2"], 0.0),
        ([T, F], ["1", "2"], 1 / 2),
        ([T, F, F], ["1", "2", "3"], 1 / 3),
        ([T, T, F, F, F], ["1", "1", "2", "2", "3"], 1 / 2),
        ([F, F, T], [None, None, "1"], 1.0),
        ([F, F], [None, None], 0.0),
    ],
)
def test_the_majority_of_answers_with_ties(correct: list[bool], extracted: list[str | None], expected: float) -> None:
    assert majority(correct, extracted) == pytest.approx(expected)


EQUAL = {"a": 1.0, "A": 1.0, "a ": 1.0, "b": 2.0, "B": 2.0, "slow": 3.0, "SLOW": 3.0, "g": 9.0, "G": 9.0, "9": 9.0}


@pytest.mark.parametrize(
    "answers, votes, num_asked, value",
    [
        # g, G and 9 are right
        (["a", "a", "A", "g", "G", "9"], [0, 0, 0, 3, 3, 3], 1, 1 / 2),
        (["g", "G", "9", "a", "A", "b"], [0, 0, 0, 3, 3, 5], 2, 1.0),
        (["g", "G", "a", "A", "a"], [0, 0, 2, 2, 2], 1, 0.0),
        (["g", "a", "b"], [0, 1, 2], 1, 1 / 3),
        (["g", "a", "A", "b", "B"], [0, 1, 1, 3, 4], 1, 0.0),  # 2 to 1 is enough
        # the texts decide
        (["g", "G", "a"], [0, 0, 2], 0, 1.0),
        (["g", "a", "a", "A"], [0, 1, 1, 3], 0, 0.0),
        (["a", "A", "b"], [0, 1, 2], 0, 0.0),
        (["g", "g", "a", "a"], [0, 0, 2, 2], 0, 1 / 2),
        (["g", " g", "a\n", "a"], [0, 0, 2, 2], 0, 1 / 2),
        ([None, "g", None], [None, 1, None], 0, 1.0),
        ([None, None], [None, None], 0, 0.0),
        # two answers whose comparison exceeds a limit are not compared with others
        (["g", "G", "slow", "a", "A", "b", "b"], [0, 0, 2, 3, 4, 5, 5], 2, 1 / 2),
    ],
)
def test_equal_answers_share_a_vote(
    answers: list[str | None], votes: list[int | None], num_asked: int, value: float
) -> None:
    asked: list[tuple[str, str]] = []

    async def compare(answer: str, other: str) -> Verdict:
        asked.append((answer, other))
        if "slow" in (answer, other):
            return Verdict(False, "timeout")
        return Verdict(EQUAL[answer] == EQUAL[other], "compared")

    is_right = [answer is not None and answer.strip() in ("g", "G", "9") for answer in answers]
    verdicts = [Verdict(right, "", answer) for right, answer in zip(is_right, answers, strict=True)]
    found = asyncio.run(share_votes(verdicts, compare))
    assert (found, len(asked)) == (votes, num_asked)
    rows = [Sample(v.correct, v.extracted, vote=vote) for v, vote in zip(verdicts, found, strict=True)]
    assert benchmark_result([rows]).maj == pytest.approx(value)


def test_an_answer_that_was_too_slow_to_grade_is_not_compared() -> None:
    async def compare(answer: str, other: str) -> Verdict:
        raise AssertionError(f"{answer} and {other}")

    graded = [("9", "correct"), ("slow", "timeout"), ("a", "wrong"), ("crash", "crashed")]
    verdicts = [Verdict(reason == "correct", reason, answer) for answer, reason in graded]
    assert asyncio.run(share_votes(verdicts, compare)) == [0, 1, 2, 3]


def test_a_text_that_was_graded_right_once_is_right() -> None:
    verdicts = [Verdict(False, "timeout", "1/2"), Verdict(True, "correct", "1/2"), Verdict(True, "correct", "0.5")]
    assert asyncio.run(share_votes(verdicts, None)) == [0, 0, 0]


@pytest.mark.parametrize("num_samples, num_correct", [(4, 0), (4, 1), (5, 2), (6, 5), (6, 6)])
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_one(num_samples: int, num_correct: int) -> None:
    for k in range(1, num_samples + 1):
        subsets = list(itertools.combinations(range(num_samples), k))
        share = sum(min(subset) < num_correct for subset in subsets) / len(subsets)
        assert pass_at_k(num_samples, num_correct, k) == pytest.approx(share)


@pytest.mark.parametrize(
    "before, after, mean, error",
    [
        # differences 0.5 and 0.0: mean 1/4, standard deviation sqrt(1/8), over sqrt(2)
        ([0.0, 0.5], [0.5, 0.5], 0.25, 0.25),
        ([0.2, 0.8], [0.3, 0.9], 0.1, 0.0),
        ([0.4], [0.1], -0.3, 0.0),
    ],
)
def test_paired_difference(before: list[float], after: list[float], mean: float, error: float) -> None:
    assert paired_difference(before, after) == (pytest.approx(mean), pytest.approx(error, abs=1e-12))


def test_shares_of_responses_that_finish_and_answer() -> None:
    found = benchmark_result(
        [
            [Sample(T, "1", finished=T, num_tokens=10), Sample(F, None, finished=T, num_tokens=20)],
            [Sample(T, "1", finished=F, num_tokens=40), Sample(F, None, finished=F, num_tokens=40)],
            [Sample(F, "2", finished=F, num_tokens=40), Sample(T, None, finished=T, num_tokens=0)],
        ]
    )
    # 3 of 6 finished, 2 of them with an answer (a correct one counts as read); 2 more answered before they were cut
    assert (found.finished, found.in_form, found.answered) == (pytest.approx(3 / 6), 2 / 6, pytest.approx(4 / 6))
    assert found.mean_tokens == 25


@pytest.mark.parametrize("seed", range(5))
def test_clustered_error_agrees_with_a_bootstrap_over_problems(seed: int) -> None:
    """The two differ only by the bootstrap's factor of (n - 1) / n in the variance."""
    rng = random.Random(seed)
    rows = [[Sample(rng.random() < rate, None) for _ in range(4)] for rate in (0.1, 0.2, 0.5, 0.6, 0.9, 0.95)]
    means = [sum(s.correct for s in row) / 4 for row in rows]
    drawn = [sum(rng.choice(means) for _ in means) / len(means) for _ in range(20_000)]
    assert statistics.stdev(drawn) / math.sqrt(5 / 6) == pytest.approx(benchmark_result(rows).stderr, rel=0.03)


def test_standard_error_is_that_of_the_mean() -> None:
    assert standard_error([1.0, 2.0, 3.0, 4.0]) == pytest.approx(math.sqrt(5 / 3) / 2)


def test_an_interval_worked_out_by_hand() -> None:
    low, high = mean_interval(0.5, 0.05, 40)
    # squares 0.05² · 40 · 39 = 3.9, of at most 39/4; with the prior of 1, and t_.975 = 2.022691 for 39 degrees
    half = 40 * (9.75 + 1) / (3.9 + 1) * (1.959964 / 2.022691) ** 2 / 2
    assert betainc(half, half + 1, low) == pytest.approx(0.025, rel=1e-4)
    assert high == pytest.approx(1 - low)


@pytest.mark.parametrize("right, low, high", [(F, 0.0, 0.12532), (T, 1 - 0.12532, 1.0)])
def test_none_or_all_of_thirty_problems_leave_an_eighth_open(right: bool, low: float, high: float) -> None:
    found = result_of([[right] * 4] * 30, [["1"] * 4] * 30)
    assert found.stderr == 0.0
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-5), pytest.approx(high, abs=1e-5))


def test_one_problem_leaves_every_accuracy_open() -> None:
    found = result_of([[T, F]], [["1", "2"]])
    assert (found.low, found.high) == (0.0, 1.0)


@pytest.mark.thorough
@pytest.mark.parametrize("num_samples", [8, 16])
@pytest.mark.parametrize("num_problems", [30, 500])
@pytest.mark.parametrize("accuracy", [0.005, 0.01, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("spread", [0.02, 0.3, 0.9])
def test_intervals_cover_the_true_accuracy(num_problems: int, num_samples: int, accuracy: float, spread: float) -> None:
    """Beta difficulties from nearly alike to nearly all or nothing; `benchmarks/coverage.py` has the whole grid."""
    rng = np.random.default_rng(0)
    rates = rng.beta(accuracy * (1 / spread - 1), (1 - accuracy) * (1 / spread - 1), (2000, num_problems))
    drawn = rng.binomial(num_samples, rates) / num_samples
    low, high = mean_interval(drawn.mean(1), drawn.std(1, ddof=1) / math.sqrt(num_problems), num_problems)
    assert np.mean((low <= accuracy) & (accuracy <= high)) >= 0.93


@pytest.mark.parametrize("correct", [[], [[]], [[T], []]])
def test_a_result_without_samples_is_an_error(correct: list[list[bool]]) -> None:
    with pytest.raises(ValueError, match="at least one problem"):
        result_of(correct, [[None for _ in row] for row in correct])


def test_problems_of_unequal_length_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="argument 2"):
        paired_difference([0.0, 1.0], [0.0])
