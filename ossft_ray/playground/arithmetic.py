r"""The arithmetic world: problems in five levels, the policy's own style of solving, and the expert's.

A problem is a chain of additions, subtractions and, from level 4, products. The policy's own style keeps a running
total, one small step a line. The expert computes the products, gathers the gains and the losses, sums each in one leap,
and subtracts. This solution is correct, but its order and wording differ, and it takes leaps that a small policy
cannot follow: the paper's policy gap (arXiv 2509.15157, Section 1).

The policy does not know the harder part of the multiplication table (`TABLE`), which its pre-training left out
(`benchmarks/pretrain_playground.py`). Alone it can only guess there, while the expert's solution states the product, so
guided alignment can help. The hash of an expression assigns it to exactly one split, so no policy and no expert has
seen a held-out problem.
"""

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ossft_ray.common.playground_paths import BENCHMARKS

Split = Literal["pretrain", "train", "heldout"]
Products = Sequence[tuple[int, int]]  # pairs of factors to choose from

TABLE: Products = [(a, b) for a in range(6, 13) for b in range(6, 10)]


@dataclass(frozen=True)
class Level:
    """The number of products in a level's problems, and the number and size of its plain terms."""

    num_products: int
    min_terms: int
    max_terms: int
    max_term: int


LEVELS = {
    1: Level(0, 2, 2, 50),
    2: Level(0, 3, 3, 50),
    3: Level(0, 4, 4, 50),
    4: Level(1, 1, 2, 50),
    5: Level(2, 4, 6, 50),
}
LARGEST_TOTAL = 300  # running totals stay within 0 ... 300, so that every step is small
NUM_HELDOUT = 80  # problems in each of playground/level1 ... playground/level5
HELDOUT_SEED = 2024
WORDINGS = ("What is {chain}?", "Compute {chain}.", "Work out {chain}.")
TRAINING_MIX = {1: 0.05, 2: 0.15, 3: 0.20, 4: 0.40, 5: 0.20}  # share of each level in the demo's problems


@dataclass(frozen=True)
class Term:
    """One signed term of a chain: a number, or a product of two."""

    sign: int
    number: int
    factor: int | None = None

    @property
    def size(self) -> int:
        return self.number * (self.factor or 1)

    @property
    def value(self) -> int:
        return self.sign * self.size

    @property
    def text(self) -> str:
        return f"{self.number} * {self.factor}" if self.factor else str(self.number)


@dataclass(frozen=True)
class ArithmeticProblem:
    """A chain such as 7 * 8 + 48 - 17, as its terms, and the wording of its question."""

    terms: tuple[Term, ...]
    wording: str

    @property
    def chain(self) -> str:
        first, *others = self.terms
        return first.text + "".join(f" {'+' if term.sign > 0 else '-'} {term.text}" for term in others)

    @property
    def question(self) -> str:
        return self.wording.format(chain=self.chain)

    @property
    def answer(self) -> str:
        return str(sum(term.value for term in self.terms))

    @property
    def own_solution(self) -> str:
        """The policy's style: a running total, one step a line, and each product just before it is needed."""
        return "\n".join([*self.own_steps, f"The answer is \\boxed{{{self.answer}}}."])

    @property
    def own_steps(self) -> list[str]:
        """The lines of the policy's solution, without the last one."""
        total, lines = 0, []
        for index, term in enumerate(self.terms):
            if term.factor:
                lines.append(f"{term.number}*{term.factor}={term.size}")
            if index:
                lines.append(f"{total}{term.value:+d}={total + term.value}")
            total += term.value
        return lines

    @property
    def expert_solution(self) -> str:
        """The expert's style: all products, then gains in one leap, losses in one leap, then their difference."""
        gains = [term.size for term in self.terms if term.sign > 0]
        losses = [term.size for term in self.terms if term.sign < 0]
        products = [f"{term.text} = {term.size}" for term in self.terms if term.factor]
        sentences = [f"We know {' and '.join(products)}."] if products else []
        sentences.append(f"Gather the gains: {_leap(gains)}.")
        if losses:
            sentences.append(f"Now the losses: {_leap(losses)}.")
            difference = f"{sum(gains)} - {sum(losses)}"
            sentences.append(f"Their difference, {difference}, leaves \\boxed{{{sum(gains) - sum(losses)}}}")
        else:
            sentences.append(f"There are no losses, which leaves \\boxed{{{sum(gains)}}}")
        return " ".join(sentences)

    @property
    def split(self) -> Split:
        """The split of the expression: one in eight is held out, and one in eight is for training."""
        bucket = hashlib.sha256(self.chain.encode()).digest()[0] % 8
        return "heldout" if bucket == 0 else "train" if bucket == 1 else "pretrain"


def sample_problem(level: int, split: Split, rng: random.Random, products: Products = TABLE) -> ArithmeticProblem:
    """A problem of this level and split: uniform over lengths, products and terms whose totals stay in range."""
    while True:
        problem = _sample(LEVELS[level], rng, products)
        if problem.split == split:
            return problem


def training_problems(
    num_problems: int, seed: int = 0, solve: Callable[[int, ArithmeticProblem], str] | None = None
) -> list[dict[str, str]]:
    """Distinct problems with solutions, levels in the demo's mix; none of them is held out.

    `solve` writes the solution of a problem, given its number; by default the expert does.
    """
    rng = random.Random(seed)
    levels = rng.choices(list(TRAINING_MIX), list(TRAINING_MIX.values()), k=num_problems)
    return _rows(levels, "train", f"train-{seed}", solve)


def heldout_problems(level: int, num_problems: int = NUM_HELDOUT) -> list[dict[str, str]]:
    """The held-out set `playground/level{level}`, the same on every machine."""
    return _rows([level] * num_problems, "heldout", f"level{level}-{HELDOUT_SEED}")


def _sample(level: Level, rng: random.Random, products: Products) -> ArithmeticProblem:
    """Sample a problem: a product comes first, a second one anywhere, and terms that leave the range are redrawn."""
    num_terms = level.num_products + rng.randint(level.min_terms, level.max_terms)
    places = {0, *rng.sample(range(1, num_terms), level.num_products - 1)} if level.num_products else set()
    total = 0
    terms: list[Term] = []
    while len(terms) < num_terms:
        sign = 1 if not terms or rng.random() < 0.5 else -1
        is_product = len(terms) in places
        term = Term(sign, *rng.choice(products)) if is_product else Term(sign, rng.randint(1, level.max_term))
        if 0 <= total + term.value <= LARGEST_TOTAL:
            terms.append(term)
            total += term.value
    return ArithmeticProblem(tuple(terms), rng.choice(WORDINGS))


def _rows(
    levels: list[int], split: Split, name: str, solve: Callable[[int, ArithmeticProblem], str] | None = None
) -> list[dict[str, str]]:
    rng = random.Random(name)
    seen: set[str] = set()
    rows: list[dict[str, str]] = []
    for level in levels:
        while (problem := sample_problem(level, split, rng)).chain in seen:
            pass
        seen.add(problem.chain)
        solution = solve(len(rows), problem) if solve else problem.expert_solution
        row = {"question": problem.question, "answer": problem.answer, "expert_solution": solution}
        rows.append({"id": f"{name}-{len(rows):05d}", **row, "level": str(level)})
    return rows


def _leap(numbers: list[int]) -> str:
    """A sum in one leap, such as "3 + 48 = 51"; a single number stays as is."""
    return " + ".join(map(str, numbers)) + (f" = {sum(numbers)}" if len(numbers) > 1 else "")


if __name__ == "__main__":  # write the five held-out sets into the package
    for level, path in enumerate(BENCHMARKS.values(), start=1):
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in heldout_problems(level)))
