"""Which rows of the input become problems? Each is usable, perhaps with something to note, or set aside.

Looked at in this order, and a row that is set aside counts for nothing that comes after: can it be read, is its id
new, does its prompt fit the policy, is its gold answer sound, does it overlap with a benchmark, is its question new.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ossft_ray.common.errors import InputError
from ossft_ray.common.types import Problem
from ossft_ray.config import Experiment, Prompts
from ossft_ray.data.contamination import index_benchmarks
from ossft_ray.data.gold_check import GoldCheck, check_golds
from ossft_ray.data.problems import Rejection, read_problems
from ossft_ray.data.records import Record
from ossft_ray.data.seen_problems import Seen, Standing
from ossft_ray.method.prompts import solve_prompt
from ossft_ray.policy.chat import Chat
from ossft_ray.verification import VerifierPool

# No tokenizer makes more tokens than bytes out of a text, but some rewrite it first: ASCII hardly, other characters
# into at most 11 times as many bytes (Unicode's NFKC).
_MOST_TOKENS_OF_ASCII, _MOST_TOKENS_OF_A_BYTE = 4, 12


@dataclass(frozen=True)
class Usable:
    """A problem with the row it came from, and whether the run held it before, as it is or with another gold."""

    record: Record
    problem: Problem
    standing: Standing = "new"
    notes: tuple[str, ...] = ()  # `contaminated`, `bad_gold`, `duplicate_question`: ..., where that is only reported


@dataclass
class Tally:
    """What was seen of the input so far."""

    problems: int = 0
    rejected: Counter[str] = field(default_factory=Counter)  # by the reason's first word
    duplicates: int = 0  # questions that came before, kept or dropped
    contamination: dict[str, int] = field(default_factory=dict)  # by benchmark, kept or dropped
    not_checked: list[str] = field(default_factory=list)  # benchmarks that could not be compared with
    golds: Counter[str] = field(default_factory=Counter)  # gold answers by what was found of them, kept or set aside
    bad_golds: list[dict[str, Any]] = field(default_factory=list)  # those that are bad
    first_rejection: Rejection | None = None

    def count(self, item: Usable | Rejection) -> None:
        if isinstance(item, Usable):
            self.problems += 1
        else:
            self.rejected[item.reason.partition(":")[0]] += 1
            self.first_rejection = self.first_rejection or item


def screen_problems(
    experiment: Experiment, chat: Chat, seen: Seen, tally: Tally, pool: VerifierPool | None = None
) -> Iterator[Usable | Rejection]:
    """The rows of `[data]`, in their order; counts them in `tally` and remembers the problems in `seen`.

    `pool` checks the gold answers; they are not checked without one.

    Raises:
        InputError: the data cannot be used, or no row of it; a benchmark to compare with is not there; or a problem is
            not what `seen` holds under its id.
    """
    data = experiment.data
    benchmarks = index_benchmarks(data, experiment.evaluate)
    tally.contamination = dict.fromkeys(benchmarks.names, 0)
    tally.not_checked = benchmarks.not_checked
    prompt_tokens = _prompt_counter(chat, experiment.prompts)

    def screen(record: Record, problem: Problem, gold: GoldCheck | None) -> Usable:
        standing = seen.standing(problem)
        if standing == "repeated":
            raise Rejection("duplicate_id", record, problem.problem_id)
        if standing == "changed":
            raise InputError(
                f"{record.source}, row {record.row}: problem '{problem.problem_id}' asks another question than what "
                "this run holds under that id; answers may be corrected, but new problems can only be added (without "
                "ids of their own, after the others): choose another [run] output, or pass --start-over"
            )
        if (num_tokens := prompt_tokens(problem.question)) >= chat.context_length:
            reason = f"prompt_too_long: {num_tokens} tokens, and the policy's context is {chat.context_length}"
            raise Rejection(reason, record, problem.problem_id)
        if gold is not None:
            tally.golds[gold.finding] += 1
        if is_bad := gold is not None and gold.is_bad:
            tally.bad_golds.append(gold.as_json(problem))
            if data.bad_golds == "reject":
                raise Rejection(str(gold), record, problem.problem_id)
        overlaps = benchmarks.overlaps(problem.question)
        for overlap in overlaps:
            tally.contamination[overlap.benchmark] += 1
        if overlaps and data.contamination == "drop":
            raise Rejection(str(overlaps[0]), record, problem.problem_id)
        notes = [str(overlap) for overlap in overlaps] + ([str(gold)] if is_bad and data.bad_golds == "flag" else [])
        if (same := seen.same_question(problem)) is not None:
            tally.duplicates += 1
            notes.append(f"duplicate_question: same as {same}")
            if data.duplicates == "drop":
                raise Rejection(notes[-1], record, problem.problem_id)
        seen.meet(problem)
        return Usable(record, problem, standing, tuple(notes))

    for item, gold in check_golds(read_problems(data, experiment.verify.kind), pool):
        result: Usable | Rejection
        try:
            result = item if isinstance(item, Rejection) else screen(*item, gold)
        except Rejection as rejection:
            result = rejection
        tally.count(result)
        yield result
    if tally.problems == 0:
        why = tally.first_rejection or "it is empty"
        raise InputError(f"[data] path: {data.path} holds no usable problem; {why}")


def _prompt_counter(chat: Chat, prompts: Prompts) -> Callable[[str], int]:
    """The tokens of a question's plain prompt: exactly where they may fill the context, else a number below it."""

    def render(question: str) -> int:
        return len(chat.render(solve_prompt(question, prompts.system, prompts.solve)))

    frame, times = render(""), prompts.solve.count("{question}")

    def count(question: str) -> int:
        factor = _MOST_TOKENS_OF_ASCII if question.isascii() else _MOST_TOKENS_OF_A_BYTE
        most = frame + times * factor * len(question.encode())
        return most if most < chat.context_length else render(question)

    return count
