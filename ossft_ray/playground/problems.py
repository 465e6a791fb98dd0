r"""The arithmetic world: problems in five levels, the policy's own style of solving, and the expert's.

A problem is a chain of additions and subtractions. The policy's own style keeps a running total, one small step
a line. The expert gathers what is added and what is taken away, sums each in one leap, and subtracts: a correct
solution, but with another order of steps, another wording, and leaps that a small policy cannot follow. That is
the paper's policy gap (arXiv 2509.15157, Section 1) at toy size.

Every expression belongs to exactly one split (by its hash), so held-out problems were never seen by anyone.
"""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Split = Literal["pretrain", "train", "heldout"]

LEVELS: dict[int, tuple[int, int, int]] = {
    # level: fewest terms, most terms, largest term
    1: (2, 2, 50),
    2: (3, 3, 50),
    3: (4, 4, 50),
    4: (5, 6, 50),
    5: (8, 10, 99),
}
LARGEST_TOTAL = 300  # running totals stay within 0 ... 300, so that every step is a small one
NUM_HELDOUT = 80  # problems in each of playground/level1 ... playground/level5
HELDOUT_SEED = 2024
WORDINGS = ("What is {chain}?", "Compute {chain}.", "Work out {chain}.")
# The training problems of the demo: how many of each level in ten.
TRAINING_MIX = (1, 2, 2, 2, 2, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5)


@dataclass(frozen=True)
class ArithmeticProblem:
    """A chain such as 3 + 48 - 17, as its signed terms, and the words of its question."""

    terms: tuple[int, ...]
    level: int
    wording: str

    @property
    def chain(self) -> str:
        first, *others = self.terms
        return str(first) + "".join(f" {'+' if term > 0 else '-'} {abs(term)}" for term in others)

    @property
    def question(self) -> str:
        return self.wording.format(chain=self.chain)

    @property
    def answer(self) -> str:
        return str(sum(self.terms))

    @property
    def own_solution(self) -> str:
        """The policy's style: a running total, one step a line."""
        total, lines = self.terms[0], []
        for term in self.terms[1:]:
            lines.append(f"{total}{term:+d}={total + term}")
            total += term
        return "\n".join([*lines, f"The answer is \\boxed{{{total}}}."])

    @property
    def expert_solution(self) -> str:
        """The expert's style: gains in one leap, losses in one leap, then their difference."""
        gains = [str(term) for term in self.terms if term > 0]
        losses = [str(-term) for term in self.terms if term < 0]
        gained, lost = sum(map(int, gains)), sum(map(int, losses))
        lines = [f"Gather the gains first: {_leap(gains)}."]
        if losses:
            lines.append(f"Now the losses: {_leap(losses)}.")
            lines.append(f"Their difference, {gained} - {lost}, leaves \\boxed{{{gained - lost}}}")
        else:
            lines.append(f"There are no losses, which leaves \\boxed{{{gained}}}")
        return " ".join(lines)

    @property
    def split(self) -> Split:
        """Which split the expression belongs to: one in eight is held out, one in eight is for training."""
        bucket = hashlib.sha256(self.chain.encode()).digest()[0] % 8
        return "heldout" if bucket == 0 else "train" if bucket == 1 else "pretrain"


def _leap(numbers: list[str]) -> str:
    """A sum in one go: "3 + 48 = 51"; a single number stands alone."""
    return " + ".join(numbers) + (f" = {sum(map(int, numbers))}" if len(numbers) > 1 else "")


def sample_problem(level: int, rng: random.Random) -> ArithmeticProblem:
    """One problem of `level`, uniform over lengths, then over terms whose running totals stay in range."""
    fewest, most, largest = LEVELS[level]
    num_terms = rng.randint(fewest, most)
    total, terms = 0, []
    while len(terms) < num_terms:
        term = rng.randint(1, largest) * (1 if not terms or rng.random() < 0.5 else -1)
        if 0 <= total + term <= LARGEST_TOTAL:
            terms.append(term)
            total += term
    return ArithmeticProblem(tuple(terms), level, rng.choice(WORDINGS))


def sample_problems(level: int, split: Split, rng: random.Random) -> Iterator[ArithmeticProblem]:
    """Endless problems of one level and split; expressions may come again."""
    while True:
        problem = sample_problem(level, rng)
        if problem.split == split:
            yield problem


def _rows(levels: list[int], split: Split, name: str, seed: int) -> list[dict[str, str]]:
    rng = random.Random(f"{name}-{seed}")
    seen: set[str] = set()
    rows = []
    for level in levels:
        problem = next(p for p in sample_problems(level, split, rng) if p.chain not in seen)
        seen.add(problem.chain)
        rows.append(
            {
                "id": f"{name}-{len(rows):05d}",
                "question": problem.question,
                "answer": problem.answer,
                "expert_solution": problem.expert_solution,
                "level": str(level),
            }
        )
    return rows


def training_problems(num_problems: int, seed: int = 0) -> list[dict[str, str]]:
    """Distinct problems with expert solutions, levels in the demo's mix; none is in a held-out set."""
    rng = random.Random(seed)
    levels = [rng.choice(TRAINING_MIX) for _ in range(num_problems)]
    return _rows(levels, "train", "train", seed)


def heldout_problems(level: int, num_problems: int = NUM_HELDOUT) -> list[dict[str, str]]:
    """The held-out set `playground/level{level}`, the same on every machine."""
    return _rows([level] * num_problems, "heldout", f"level{level}", HELDOUT_SEED)
