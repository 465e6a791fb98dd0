"""Are the gold answers themselves right? A wrong one silently turns good responses into failures.

Before anything is sampled, each answer is checked against itself (can it be compared with at all?) and each expert
solution against its answer (do the two agree?). What is found is counted and listed in the manifest; `[data] bad_golds`
says whether such a problem is kept, kept and flagged, or set aside.

| finding             | meaning                                                                                 | bad |
|---------------------|-----------------------------------------------------------------------------------------|-----|
| `sound`             | the expert's solution states this answer                                                |     |
| `not_stated`        | the expert's solution states no answer in any form that is read                         |     |
| `contradicted`      | the expert's solution states another answer                                             | yes |
| `unparsed`          | the answer cannot be read, or does not equal itself, so right responses would be wrong  | yes |
| `solution_unparsed` | the answer that the expert's solution states cannot be read                             | yes |
| `timeout`, ...      | checking ran into a limit, or the verifier failed                                       | yes |
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from ossft_ray.common.types import Problem
from ossft_ray.common.verdict import NO_ANSWER, NO_VERDICT, UNPARSED
from ossft_ray.config import Experiment
from ossft_ray.data.problems import Rejection
from ossft_ray.data.records import Record
from ossft_ray.verification import Task, Verdict, VerifierPool

SOUND, NOT_STATED, CONTRADICTED = "sound", "not_stated", "contradicted"
Item = tuple[Record, Problem] | Rejection


@dataclass(frozen=True)
class GoldCheck:
    """What was found of one gold answer; `stated` is the answer that the expert's solution gives."""

    finding: str
    stated: str | None = None

    @property
    def is_bad(self) -> bool:
        return self.finding not in (SOUND, NOT_STATED)

    def __str__(self) -> str:
        return f"bad_gold: {self.finding}" + (f": the solution says {self.stated}" if self.stated else "")

    def as_json(self, problem: Problem) -> dict[str, Any]:
        """How the manifest lists it."""
        found = {"problem_id": problem.problem_id, "finding": self.finding, "answer": problem.answer}
        return found | ({"solution_says": self.stated} if self.stated else {})


def gold_pool(experiment: Experiment) -> AbstractContextManager[VerifierPool | None]:
    """What checks the gold answers of a run; None where it does not ask for that.

    Raises:
        InputError: there is no such kind of verifier.
    """
    return nullcontext() if experiment.data.bad_golds == "ignore" else VerifierPool.of(experiment.verify)


def check_golds(items: Iterable[Item], pool: VerifierPool | None) -> Iterator[tuple[Item, GoldCheck | None]]:
    """Each item with its check, in their order; None for what has no answer, and for all without a pool."""
    if pool is None:
        yield from ((item, None) for item in items)
        return
    for item, verdicts in pool.map_each(items, _tasks):
        yield item, _gold_check(*verdicts) if verdicts else None


def _tasks(item: Item) -> list[Task]:
    if isinstance(item, Rejection) or not item[1].answer:
        return []
    problem = item[1]
    about = problem.question, problem.verifier
    return [Task(problem.answer, response, *about) for response in (None, problem.expert_solution or "")]


def _gold_check(answer: Verdict, solution: Verdict) -> GoldCheck:
    if not answer.correct:
        return GoldCheck(answer.reason if answer.reason in NO_VERDICT else UNPARSED)
    if solution.correct:
        return GoldCheck(SOUND)
    names = {NO_ANSWER: NOT_STATED, UNPARSED: "solution_unparsed"} | {reason: reason for reason in NO_VERDICT}
    return GoldCheck(names.get(solution.reason, CONTRADICTED), solution.extracted)
