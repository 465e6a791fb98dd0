"""Rewriting's input: rows of files become parts of problems, or are set aside with the reason.

The input is streamed once and laid out on the run's storage, so that workers anywhere can read their parts and a
killed run finds the same parts again.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ossft_ray.config import Experiment
from ossft_ray.data import Rejection, read_problems
from ossft_ray.engines.chat import Chat
from ossft_ray.errors import InputError
from ossft_ray.method.prompts import solve_prompt
from ossft_ray.method.rewriting import Problem
from ossft_ray.records import Record
from ossft_ray.schema import PROBLEM, REJECTED
from ossft_ray.storage import Folder, PartWriter

PARTS = "part-*.parquet"
PROBLEMS = "problems"  # sub-folder: the input as laid out in parts
LAID_OUT = "problems.json"  # written when the whole input is
PART_PROBLEMS = 16  # in a part; what a kill may cost is the parts in flight
_REJECTED_ROWS = 1000  # in a file


@dataclass(frozen=True)
class Layout:
    """The input as it was laid out, kept as `problems.json`."""

    problems: int
    rejected: int
    rejected_reasons: dict[str, int]  # by the reason's first word
    duplicates: int  # questions that came before, kept or dropped
    contamination: dict[str, int]  # problems that share words with a benchmark, by benchmark
    not_checked: list[str]  # benchmarks that could not be compared with
    num_parts: int
    sources: str  # digest of what it was made from


def part_capacity(number: int) -> int:
    """How many problems a part holds: few at first, so that a small run spreads, then more, so that files stay few."""
    return 16 if number < 256 else 128


def part_names(layout: Layout) -> list[str]:
    """The names of the layout's parts, in `problems/` as in the folder itself."""
    return [f"part-{number:05d}.parquet" for number in range(layout.num_parts)]


def usable_problems(experiment: Experiment, chat: Chat) -> Iterator[Problem | Rejection]:
    """The problems of `[data]`, rejected where the plain prompt leaves no room for a response."""
    for item in read_problems(experiment.data):
        yield item if isinstance(item, Rejection) else _fitting(*item, experiment, chat)


def lay_out_problems(experiment: Experiment, chat: Chat, folder: Folder) -> dict[str, int]:
    """Stream the input once into parts of problems, and set aside the rows that cannot be used.

    Raises:
        InputError: a file cannot be used, or no usable problem is left; the folder is then left as if never begun.
    """
    if folder.exists(LAID_OUT):
        laid_out: dict[str, int] = folder.read_json(LAID_OUT)
        return laid_out
    problems = PartWriter(folder / PROBLEMS, "part", PROBLEM, PART_PROBLEMS)
    rejected = PartWriter(folder, "rejected", REJECTED, _REJECTED_ROWS)
    first: Rejection | None = None
    try:
        for item in usable_problems(experiment, chat):
            if isinstance(item, Rejection):
                first = first or item
                rejected.write(item.as_row())
            else:
                problems.write(vars(item))
        if problems.num_rows == 0:
            raise InputError(f"[data] path: {experiment.data.path} holds no usable problem; {first or 'it is empty'}")
    except InputError:
        folder.delete()
        raise
    problems.flush()
    rejected.flush()
    laid_out = {"problems": problems.num_rows, "rejected": rejected.num_rows}
    folder.write_json(LAID_OUT, laid_out)
    return laid_out


def _fitting(record: Record, problem: Problem, experiment: Experiment, chat: Chat) -> Problem | Rejection:
    """The problem, unless its plain prompt leaves no room for a response."""
    prompts = experiment.prompts
    num_tokens = len(chat.render(solve_prompt(problem.question, prompts.system, prompts.solve)))
    if num_tokens < chat.context_length:
        return problem
    reason = f"prompt_too_long: {num_tokens} tokens, and the policy's context is {chat.context_length}"
    return Rejection(reason, record, problem.problem_id)
