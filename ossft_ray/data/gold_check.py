"""A check of the gold answers, because a wrong one silently turns good responses into failures.

Before any response is sampled, each answer is compared with itself, which shows whether it can be compared at all, and
each expert solution is graded against its answer. The findings, which `docs/data.md` explains, are counted and listed
in the manifest. `[data] bad_golds` decides whether a problem with a bad answer is kept, kept and flagged, or set aside.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from ossft_ray.common.types import Problem
from ossft_ray.common.verdict import NO_ANSWER, NO_VERDICT, UNJUDGED, UNPARSED
from ossft_ray.config import Experiment
from ossft_ray.data.problems import Rejection
from ossft_ray.data.records import Record
from ossft_ray.verification import Task, Verdict, VerifierPool
from ossft_ray.verification.kinds import check_kind

SOUND, NOT_STATED, CONTRADICTED = "sound", "not_stated", "contradicted"
SOLUTION_UNPARSED = "solution_unparsed"
InputItem = tuple[Record, Problem] | Rejection


@dataclass(frozen=True)
class GoldCheck:
    """The finding about one gold answer; `stated` is the answer in the expert's solution."""

    finding: str
    stated: str | None = None

    @property
    def is_bad(self) -> bool:
        return self.finding not in (SOUND, NOT_STATED, UNJUDGED)

    def __str__(self) -> str:
        return f"bad_gold: {self.finding}" + (f": the solution says {self.stated}" if self.stated else "")

    def as_json(self, problem: Problem) -> dict[str, Any]:
        """The entry in the manifest."""
        found = {"problem_id": problem.problem_id, "finding": self.finding, "answer": problem.answer}
        return found | ({"solution_says": self.stated} if self.stated else {})


def gold_pool(experiment: Experiment) -> AbstractContextManager[VerifierPool | None]:
    """The verifiers that check a run's gold answers; None with `[data] bad_golds = "ignore"`.

    Raises:
        InputError: the kind of verifier is unknown.
    """
    check_kind(experiment.verify.kind, experiment.run.task)
    return nullcontext() if experiment.data.bad_golds == "ignore" else VerifierPool(experiment.verify)


def check_gold_answers(
    items: Iterable[InputItem], pool: VerifierPool | None
) -> Iterator[tuple[InputItem, GoldCheck | None]]:
    """Each item with the check of its gold answer, in order; None if it has no answer, or if there is no pool."""
    if pool is None:
        yield from ((item, None) for item in items)
        return
    for item, verdicts in pool.map_each(items, _tasks):
        yield item, _gold_check(*verdicts) if verdicts else None


def _tasks(item: InputItem) -> list[Task]:
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
    findings = {NO_ANSWER: NOT_STATED, UNPARSED: SOLUTION_UNPARSED} | {reason: reason for reason in NO_VERDICT}
    return GoldCheck(findings.get(solution.reason, CONTRADICTED), solution.extracted)
