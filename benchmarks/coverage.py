"""Coverage of the 95% intervals of an accuracy, of a paired difference, and of a mean over training runs.

    python benchmarks/coverage.py [--repetitions 4000] [--seed 0]

Every setting is simulated many times with a known truth, and its coverage is the share of intervals that hold it.
Problems differ in difficulty: their true accuracies have a beta distribution, from all alike to all or nothing, and
mixtures are tried too. The intervals are those of `ossft_ray.method` and, for comparison, mean ± Student's t times the
standard error. The last line is a JSON object.
"""

import argparse
import itertools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
from fourway.statistics import estimate
from scipy.special import ndtri, stdtrit

from ossft_ray.method.comparison import POWER, difference_interval
from ossft_ray.method.metrics import LEVEL, mean_interval

TARGET = 0.93
PROBLEMS, SAMPLES = (30, 100, 500), (8, 16)
ACCURACIES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99)
SPREADS = (0.0, 0.02, 0.1, 0.3, 0.6, 0.9, 1.0)  # correlation of two samples of a problem: 0 all alike, 1 all or nothing
PAIRED_ACCURACIES = (0.005, 0.02, 0.1, 0.5, 0.9, 0.98, 0.995)
PAIRED_SPREADS = (0.0, 0.1, 0.3, 0.9, 1.0)
MIXTURES = tuple(itertools.product((0.002, 0.01, 0.1, 0.5, 0.9), (0.002, 0.005, 0.01, 0.02, 0.05, 0.1), (0.0, 1.0)))
Intervals = tuple[np.ndarray, np.ndarray]
Pair = tuple[np.ndarray, np.ndarray, float]  # true accuracies before and after, and the true mean difference


@dataclass(frozen=True)
class Coverage:
    """The share of intervals that hold the truth, and their mean width, next to Student's."""

    setting: str
    problems: int
    samples: int
    coverage: float
    width: float
    student_coverage: float
    student_width: float


def student(values_RP: np.ndarray) -> Intervals:
    """Mean ± t standard errors over problems."""
    num = values_RP.shape[1]
    mean_R = values_RP.mean(1)
    margin_R = stdtrit(num - 1, (1 + LEVEL) / 2) * values_RP.std(1, ddof=1) / math.sqrt(num)
    return mean_R - margin_R, mean_R + margin_R


def ours(values_RP: np.ndarray) -> Intervals:
    """`mean_interval` of accuracies."""
    num = values_RP.shape[1]
    return mean_interval(values_RP.mean(1), values_RP.std(1, ddof=1) / math.sqrt(num), num)


def draw_accuracies(rng: np.random.Generator, mean: float, spread: float, shape: tuple[int, int]) -> np.ndarray:
    """True accuracies of problems: beta with this mean, `spread` the correlation of two samples of one problem."""
    if spread == 0:
        return np.full(shape, mean)
    if spread == 1:
        return (rng.random(shape) < mean).astype(float)
    size = 1 / spread - 1
    return rng.beta(mean * size, (1 - mean) * size, shape)


def draw_pairs(
    rng: np.random.Generator, mean: float, spread: float, shape: tuple[int, int]
) -> Iterator[tuple[str, Pair]]:
    """Models before and after training: equal, slightly better everywhere, or entirely different on some problems."""
    before = draw_accuracies(rng, mean, spread, shape)
    yield "same model", (before, before, 0.0)
    yield "as good, other problems", (before, draw_accuracies(rng, mean, spread, shape), 0.0)
    for share in (0.005, 0.02, 0.1):
        solved = np.where(rng.random(shape) < share, 1.0, before)
        yield f"{share:.1%} of problems solved", (before, solved, share * (1 - mean))
        flipped = np.where(rng.random(shape) < share, 1 - before, before)
        yield f"{share:.1%} of problems flipped", (before, flipped, share * (1 - 2 * mean))
    for share in (0.02, 0.1):
        yield f"errors down by {share:.0%}", (before, before + share * (1 - before), share * (1 - mean))


def covers(intervals: Intervals, truth: float) -> float:
    """The share of intervals that hold the truth."""
    low_R, high_R = intervals
    return float(np.mean((low_R <= truth + 1e-12) & (truth - 1e-12 <= high_R)))


def measured(
    setting: str, samples: int, values_RP: np.ndarray, truth: float, interval: Callable[[np.ndarray], Intervals]
) -> Coverage:
    found, other = interval(values_RP), student(values_RP)
    widths = [float(np.mean(high - low)) for low, high in (found, other)]
    shares = [covers(each, truth) for each in (found, other)]
    return Coverage(setting, values_RP.shape[1], samples, shares[0], widths[0], shares[1], widths[1])


def accuracies(rng: np.random.Generator, repetitions: int) -> Iterator[Coverage]:
    """Coverage of the interval of one model's accuracy."""
    for num, samples in itertools.product(PROBLEMS, SAMPLES):
        shape = (repetitions, num)
        for spread, mean in itertools.product(SPREADS, ACCURACIES):
            values = rng.binomial(samples, draw_accuracies(rng, mean, spread, shape)) / samples
            yield measured(f"accuracy {mean:.1%}, spread {spread}", samples, values, mean, ours)


def mixtures(rng: np.random.Generator, repetitions: int) -> Iterator[Coverage]:
    """The same where most problems are alike and a few always right or wrong, unlike any beta distribution."""
    for num, samples in itertools.product(PROBLEMS, SAMPLES):
        for mean, share, other in MIXTURES:
            true = np.where(rng.random((repetitions, num)) < share, other, mean)
            values = rng.binomial(samples, true) / samples
            setting = f"{share:.1%} of problems at {other:.0%}, the others at {mean:.1%}"
            yield measured(setting, samples, values, mean + share * (other - mean), ours)


def differences(rng: np.random.Generator, repetitions: int) -> Iterator[Coverage]:
    """Coverage of the interval of a paired difference."""
    for num, samples in itertools.product(PROBLEMS, SAMPLES):
        for spread, mean in itertools.product(PAIRED_SPREADS, PAIRED_ACCURACIES):
            pairs = list(draw_pairs(rng, mean, spread, (repetitions, num)))
            place = f"accuracy {mean:.1%}, spread {spread}"
            for name, (before, after, truth) in pairs:
                values = (rng.binomial(samples, after) - rng.binomial(samples, before)) / samples
                yield measured(f"{name}, {place}", samples, values, truth, difference_interval)
            identical = np.zeros((1, num))  # the two models give the same answers word for word
            yield measured(f"identical answers, {place}", samples, identical, 0.0, difference_interval)


def training_runs(rng: np.random.Generator, repetitions: int) -> Iterator[Coverage]:
    """Coverage of `estimate` for several training runs, whose seeds vary as little or as much as problems do."""
    for runs, (of_runs, of_problems) in itertools.product((2, 3, 8), ((0, 0.3), (0.02, 0.3), (0.1, 0.3), (0.3, 0.1))):
        held, widths = [], []
        for _ in range(repetitions):
            values_SLP = rng.normal(0, of_runs, (runs, 1, 1)) + rng.normal(0, of_problems, (1, 2, 40))
            half = estimate(values_SLP + rng.normal(0, 0.1, (runs, 2, 40)))
            held.append(not half.is_clear)
            widths.append(2 * (half.half_width or math.inf))
        setting = f"{runs} runs, standard deviation {of_runs} over seeds and {of_problems} over problems"
        yield Coverage(setting, 80, 1, float(np.mean(held)), float(np.median(widths)), math.nan, math.nan)


def powers(rng: np.random.Generator, repetitions: int) -> list[tuple[int, int, float, float]]:
    """How often a true gain of the size that a comparison calls detectable is found, at a spread of 0.3."""
    found, factor = [], 1 + ndtri(POWER) / ndtri((1 + LEVEL) / 2)
    for num, samples in itertools.product(PROBLEMS, SAMPLES):
        before = draw_accuracies(rng, 0.4, 0.3, (repetitions, num))
        draw = rng.binomial(samples, before) / samples
        low, high = difference_interval(rng.binomial(samples, before) / samples - draw)
        gain = float(np.median(factor * (high - low) / 2))
        after = before + gain / 0.6 * (1 - before)
        low, _ = difference_interval((rng.binomial(samples, after) - rng.binomial(samples, before)) / samples)
        found.append((num, samples, gain, float(np.mean(low > 0))))
    return found


def table(rows: list[Coverage]) -> list[str]:
    """By problems and samples: the lowest and the mean coverage, and Student's."""
    lines = [
        "| problems × samples | settings | lowest | mean | below 0.93 "
        "| Student's lowest | its share below 0.93 | width to Student's (median) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for num, samples in dict.fromkeys((row.problems, row.samples) for row in rows):
        group = [row for row in rows if (row.problems, row.samples) == (num, samples)]
        held, held_by_student = ([getattr(row, name) for row in group] for name in ("coverage", "student_coverage"))
        ratios = [row.width / row.student_width for row in group if row.student_width]
        lines.append(
            f"| {num} × {samples} | {len(group)} | {min(held):.3f} | {np.mean(held):.3f} "
            f"| {sum(each < TARGET for each in held)} | {min(held_by_student):.3f} "
            f"| {np.mean(np.array(held_by_student) < TARGET):.0%} | {np.median(ratios):.2f} |"
        )
    return lines


def lowest(rows: list[Coverage]) -> str:
    """The setting with the lowest coverage."""
    worst = min(rows, key=lambda row: row.coverage)
    return f"Lowest: {worst.coverage:.4f} ({worst.setting}, {worst.problems} problems × {worst.samples})."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    figures = {}
    for title, simulate in (("accuracy", accuracies), ("accuracy, mixtures", mixtures), ("difference", differences)):
        rows = list(simulate(rng, args.repetitions))
        figures[title] = asdict(min(rows, key=lambda row: row.coverage))
        print(f"\n### {title}\n", *table(rows), "", lowest(rows), sep="\n")
    print("\n### training runs\n", "| setting | coverage | median width |", "|---|---|---|", sep="\n")
    rows = list(training_runs(rng, args.repetitions // 4))
    print(*(f"| {row.setting} | {row.coverage:.3f} | {row.width:.3f} |" for row in rows), sep="\n")
    figures["training runs"] = {"coverage": min(row.coverage for row in rows)}
    print("\n### smallest detectable gain\n", "| problems × samples | gain | found |", "|---|---|---|", sep="\n")
    found = powers(rng, args.repetitions)
    print(
        *(f"| {num} × {samples} | {100 * gain:.1f} points | {share:.2f} |" for num, samples, gain, share in found),
        sep="\n",
    )
    figures["smallest power"] = min(share for *_, share in found)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
