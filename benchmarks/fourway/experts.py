"""Training problems with solutions by several experts, some of them wrong, as in real collections with many authors.

One expert writes the policy's own steps as sentences, and one writes them in lines as the policy does, except for the
last line. The third is the playground's own, who sums in leaps.
"""

import random
import re
from typing import Literal

from ossft_ray.playground.arithmetic import ArithmeticProblem, training_problems

Expert = Literal["lines", "sentences", "leaps"]
EXPERTS: tuple[Expert, ...] = ("lines", "sentences", "leaps")  # they take turns


def mixed_problems(num_problems: int, seed: int, mistakes: float) -> list[dict[str, str]]:
    """The playground's training problems, solved by the experts in turn; a share `mistakes` has a wrong result."""
    rng = random.Random(f"train-{seed} slips")

    def solve(number: int, problem: ArithmeticProblem) -> str:
        solution = solution_of(problem, EXPERTS[number % len(EXPERTS)])
        return with_wrong_result(solution, rng) if rng.random() < mistakes else solution

    return training_problems(num_problems, seed, solve)


def solution_of(problem: ArithmeticProblem, expert: Expert) -> str:
    """A correct solution in the style of one of the experts."""
    if expert == "leaps":
        return problem.expert_solution
    if expert == "lines":
        return "\n".join([*problem.own_steps, f"So we get \\boxed{{{problem.answer}}}"])
    return f"{' '.join(_sentences(problem))} The result is \\boxed{{{problem.answer}}}"


def with_wrong_result(solution: str, rng: random.Random) -> str:
    """The solution with a wrong result in its box."""
    return re.sub(r"(?<=\\boxed\{)\d+", lambda match: str(int(match[0]) + rng.randint(1, 20)), solution)


def _sentences(problem: ArithmeticProblem) -> list[str]:
    """The policy's own steps as sentences."""
    total, sentences = 0, []
    for index, term in enumerate(problem.terms):
        if term.factor:
            sentences.append(f"We know {term.text} = {term.size}.")
        if index:
            step = f"Adding {term.size} to" if term.sign > 0 else f"Taking {term.size} from"
            sentences.append(f"{step} {total} gives {total + term.value}.")
        else:
            sentences.append(f"Begin with {term.size}.")
        total += term.value
    return sentences
