"""Screening of the input: each row becomes a usable problem, perhaps with notes, or is set aside.

The checks come in this order: the row can be read, its id is new, its prompt fits the policy, its gold answer is sound,
it overlaps with no benchmark, its question is new. A row that one check sets aside does not reach the next one.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from jinja2 import TemplateError

from ossft_ray.common.errors import InputError, brief
from ossft_ray.common.prompt_templates import split_tools
from ossft_ray.common.types import Problem
from ossft_ray.config import Data, Experiment
from ossft_ray.data.chats import UnusableRow
from ossft_ray.data.contamination import BenchmarkIndex, index_benchmarks
from ossft_ray.data.gold_check import GoldCheck, check_gold_answers
from ossft_ray.data.problem_index import ProblemIndex, ProblemStatus
from ossft_ray.data.problems import Rejection, read_problems
from ossft_ray.data.records import Record
from ossft_ray.method.prompts import solve_prompt
from ossft_ray.policy.chat import Chat
from ossft_ray.verification import VerifierPool

# With details after them, these reasons say that a row cannot be read; without, that a text is empty.
_UNREADABLE = ("broken_row", "no_question", "no_expert_solution", "not_text")


@dataclass(frozen=True)
class UsableProblem:
    """A problem with the row that it came from, and its status in the run."""

    record: Record
    problem: Problem
    status: ProblemStatus = "new"
    notes: tuple[str, ...] = ()  # findings that are only reported: `contaminated: ...`, `bad_gold: ...` and so on


@dataclass
class InputCounts:
    """Counts of the input so far."""

    problems: int = 0
    rejected: Counter[str] = field(default_factory=Counter)  # by the reason's first word
    duplicates: int = 0  # repeated questions, kept or dropped
    contamination: dict[str, int] = field(default_factory=dict)  # by benchmark, kept or dropped
    not_checked: list[str] = field(default_factory=list)  # benchmarks that could not be read
    gold_findings: Counter[str] = field(default_factory=Counter)  # of all gold answers, kept or set aside
    bad_golds: list[dict[str, Any]] = field(default_factory=list)  # the bad gold answers
    broken: int = 0  # rows that cannot be read: not JSON, or laid out differently from the file's first row
    first_broken: Rejection | None = None
    first_rejections: dict[str, Rejection] = field(default_factory=dict)  # by the reason's first word

    def count(self, item: UsableProblem | Rejection) -> None:
        if isinstance(item, UsableProblem):
            self.problems += 1
        else:
            reason, _, details = item.reason.partition(":")
            self.rejected[reason] += 1
            self.first_rejections.setdefault(reason, item)
            if details and reason in _UNREADABLE:
                self.broken += 1
                self.first_broken = self.first_broken or item

    def check(self, data: Data) -> None:
        """Refuse an input without a usable problem, or with too many rows that cannot be read.

        Raises:
            InputError: see above; names the first such row.
        """
        first = next(iter(self.first_rejections.values()), None)
        if self.problems == 0:
            why = first or "it is empty"
            if self.rejected["no_answer"] == self.rejected.total() > 0:
                why = f"{why}: there is no column of answers, and no \\boxed{{}} or #### at the end of a solution"
            raise InputError(f"[data] path: {data.path} holds no usable problem; {why}")
        num_rows = self.problems + self.rejected.total()
        if self.first_broken is not None and self.broken > data.max_broken * num_rows:
            raise InputError(
                f"[data] path: {self.broken} of {num_rows} rows cannot be read; the first is {self.first_broken}; "
                f"correct them, or raise [data] max_broken, which is {data.max_broken:g}"
            )


def screen_problems(
    experiment: Experiment,
    chat: Chat,
    index: ProblemIndex,
    counts: InputCounts,
    pool: VerifierPool | None = None,
    benchmarks: BenchmarkIndex | None = None,
) -> Iterator[UsableProblem | Rejection]:
    """Stream the rows of `[data]` in order, add the usable problems to `index`, and count all rows in `counts`.

    `pool` checks the gold answers; without it they are not checked. `benchmarks` are those to compare with, by default
    those of the experiment.

    Raises:
        InputError: the data cannot be read, no row is usable, too many rows are broken, a benchmark to compare with
            cannot be read, or `index` has another question under a problem's id.
    """
    screen = _Screen(experiment, chat, index, counts, benchmarks)
    for item, gold in check_gold_answers(read_problems(experiment.data, experiment.verify.kind), pool):
        result = item if isinstance(item, Rejection) else screen.check(*item, gold)
        counts.count(result)
        yield result
    counts.check(experiment.data)


class _Screen:
    """The checks of a problem that has been read: each may raise UnusableRow, and some return notes."""

    def __init__(
        self,
        experiment: Experiment,
        chat: Chat,
        index: ProblemIndex,
        counts: InputCounts,
        benchmarks: BenchmarkIndex | None,
    ) -> None:
        self.data, self.prompts, self.chat = experiment.data, experiment.prompts, chat
        self.index, self.counts = index, counts
        self.benchmarks = benchmarks or index_benchmarks(experiment.data, experiment.evaluate)
        counts.contamination = dict.fromkeys(self.benchmarks.names, 0)
        counts.not_checked = self.benchmarks.not_checked

    def check(self, record: Record, problem: Problem, gold: GoldCheck | None) -> UsableProblem | Rejection:
        """Apply all checks in order, and add a usable problem to the index."""
        try:
            status = self._check_id(record, problem)
            self._check_prompt(problem)
            gold_notes = self._check_gold(problem, gold)
            notes = [*self._check_overlap(problem), *gold_notes, *self._check_question(problem)]
        except UnusableRow as unusable:
            return Rejection(str(unusable), record, problem.problem_id)
        self.index.add(problem)
        return UsableProblem(record, problem, status, tuple(notes))

    def _check_id(self, record: Record, problem: Problem) -> ProblemStatus:
        status = self.index.status(problem)
        if status == "repeated":
            raise UnusableRow("duplicate_id")
        if status == "changed":
            raise InputError(
                f"{record.source}, row {record.row}: problem '{problem.problem_id}' asks a different question from the "
                "one that this run has under that id; answers may be corrected, but new problems can only be added "
                "(at the end, if the rows have no ids); choose another [run] output, or pass --start-over"
            )
        return status

    def _check_prompt(self, problem: Problem) -> None:
        prompt = solve_prompt(problem.question, self.prompts.system, self.prompts.solve, problem.conversation)
        try:
            num_tokens = len(self.chat.render(prompt))
        except (TemplateError, TypeError) as error:
            if not problem.conversation:
                raise
            raise UnusableRow(f"chat_template: it cannot render the conversation: {brief(error)}") from error
        without_tools, tools = split_tools(prompt)
        if tools and num_tokens == len(self.chat.render(without_tools)):
            raise UnusableRow("chat_template: it leaves the tools out")
        if num_tokens >= self.chat.context_length:
            raise UnusableRow(
                f"prompt_too_long: {num_tokens} tokens, and the policy's context is {self.chat.context_length}"
            )

    def _check_gold(self, problem: Problem, gold: GoldCheck | None) -> list[str]:
        if gold is None:
            return []
        self.counts.gold_findings[gold.finding] += 1
        if not gold.is_bad:
            return []
        self.counts.bad_golds.append(gold.as_json(problem))
        if self.data.bad_golds == "reject":
            raise UnusableRow(str(gold))
        return [str(gold)] if self.data.bad_golds == "flag" else []

    def _check_overlap(self, problem: Problem) -> list[str]:
        overlaps = self.benchmarks.overlaps(problem.question)
        for overlap in overlaps:
            self.counts.contamination[overlap.benchmark] += 1
        if overlaps and self.data.contamination == "drop":
            raise UnusableRow(str(overlaps[0]))
        return [str(overlap) for overlap in overlaps]

    def _check_question(self, problem: Problem) -> list[str]:
        if (other := self.index.same_question(problem)) is None:
            return []
        self.counts.duplicates += 1
        note = f"duplicate_question: same as {other}"
        if self.data.duplicates == "drop":
            raise UnusableRow(note)
        return [note]
