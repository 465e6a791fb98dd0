"""Evaluation problems: the playground's levels, the paper's five benchmarks, or any file of problems."""

import difflib
from functools import cache
from typing import Any

from ossft_ray.common import playground_paths
from ossft_ray.common.errors import InputError
from ossft_ray.common.storage import Folder
from ossft_ray.common.types import Problem
from ossft_ray.common.uris import join
from ossft_ray.config import Columns, Data, Evaluate
from ossft_ray.data.chats import UnusableRow
from ossft_ray.data.hub import hub_digest, read_hub_records
from ossft_ray.data.layouts import Layout, answer_of_cell, choose_layout, read_question, strip_end_tokens
from ossft_ray.data.problems import check_unicode, read_verifier
from ossft_ray.data.records import Record, file_digest, find_files, is_known_kind, read_records
from ossft_ray.verification.answers import answer_text, final_answer

# The paper's benchmarks, from the Hub data sets that the field uses. Each has all its questions in one split.
_PAPER = {
    "math500": Data(path="HuggingFaceH4/MATH-500", split="test"),
    "minerva_math": Data(path="math-ai/minervamath", split="test"),
    "olympiadbench": Data(path="Hothan/OlympiadBench", subset="OE_TO_maths_en_COMP", split="train"),
    "aime24": Data(path="HuggingFaceH4/aime_2024", split="train"),
    "amc23": Data(path="math-ai/amc23", split="test"),
}
PAPER_BENCHMARKS = tuple(_PAPER)


def read_benchmark(name: str, settings: Evaluate, kind: str = "math") -> list[Problem]:
    """The problems of one benchmark: a playground level, one of the paper's five (`data_dir` or Hub), or a file.

    `kind` is the kind of verification for rows whose column `verifier` is empty. A file has the columns of `settings`,
    or those of a known layout.

    Raises:
        InputError: the name is unknown, the file is missing, or a row has no question, no answer, a repeated id or an
            unknown verifier.
    """
    from_hub = is_from_hub(name, settings)
    path = name if from_hub else _benchmark_file(name, settings)
    problems: dict[str, Problem] = {}
    columns = settings.columns if is_known_kind(name) else Columns()
    layout: Layout | None = None
    for index, record in enumerate(read_hub_benchmark(name) if from_hub else read_records(path)):
        try:
            if record.broken is not None:
                raise UnusableRow(record.broken)
            if layout is None:
                place = f"{record.source}, row {record.row}"
                layout = choose_layout(record.values, columns, place, "evaluate", needs_solution=False)
            problem = _problem(record.values, layout, index, kind)
            if problem.problem_id in problems:
                raise UnusableRow(f"id '{problem.problem_id}' is repeated; make it unique")
        except UnusableRow as error:
            raise InputError(f"{record.source}, row {record.row}: {error}") from error
        problems[problem.problem_id] = problem
    if not problems:
        raise InputError(f"{path}: holds no problems")
    return list(problems.values())


@cache
def read_hub_benchmark(name: str) -> tuple[Record, ...]:
    """The rows of one of the paper's benchmarks. They are downloaded once and then available offline.

    Raises:
        InputError: as `read_hub_records`.
    """
    data = _PAPER[name]
    try:
        return tuple(read_hub_records(str(data.path), data, streaming=False))
    except InputError as error:
        reason = str(error).removeprefix("[data] path: ")
        raise InputError(
            f"[evaluate] benchmark '{name}': {reason}; or set evaluate.data_dir to a folder that holds {name}.jsonl"
        ) from error


def benchmark_digest(name: str, settings: Evaluate) -> str:
    """A digest of a benchmark for fingerprints: of its file, or of its place on the Hub.

    Raises:
        InputError: the name is unknown, or the file cannot be read.
    """
    if is_from_hub(name, settings):
        return hub_digest(str(_PAPER[name].path), _PAPER[name])
    columns = settings.columns.model_dump(exclude_unset=True) if is_known_kind(name) else {}
    return file_digest(_benchmark_file(name, settings)) + (f" columns {columns}" if columns else "")


def is_from_hub(name: str, settings: Evaluate) -> bool:
    """Whether a benchmark is read from the Hub, and not from a file."""
    return name in PAPER_BENCHMARKS and not settings.data_dir


def _benchmark_file(name: str, settings: Evaluate) -> str:
    """The file behind a benchmark's name; an InputError suggests the nearest valid name."""
    if name in playground_paths.BENCHMARKS:
        return str(playground_paths.BENCHMARKS[name])
    if name in PAPER_BENCHMARKS:
        path = join(settings.data_dir, f"{name}.jsonl")
        folder, file = Folder.of_file(path)
        if not folder.exists(file):
            raise InputError(
                f"[evaluate] benchmark '{name}': no {name}.jsonl in {settings.data_dir}; "
                "set evaluate.data_dir to a folder that holds it, or leave it empty to use the Hub's"
            )
        return path
    if is_known_kind(name):
        return find_files(name)[0]
    known = [*playground_paths.BENCHMARKS, *PAPER_BENCHMARKS]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}, or a .jsonl or .parquet file"
    raise InputError(f"[evaluate] unknown benchmark '{name}'; {hint}")


def _problem(values: dict[str, Any], layout: Layout, index: int, kind: str) -> Problem:
    """The problem of one row; raises UnusableRow with the reason if there is none."""
    try:
        question, conversation = read_question(values, layout)
    except UnusableRow as error:
        raise UnusableRow(f"no question ({error})") from error
    verifier = read_verifier(layout.value("verifier", values))
    answer = answer_of_cell(layout.value("answer", values), verifier or kind)
    solution = values.get(layout.columns.get("expert_solution", ""))
    answer = answer or final_answer(strip_end_tokens(solution if isinstance(solution, str) else "")) or ""
    if not answer:
        raise UnusableRow(
            f"no answer in column '{layout.column('answer', values) or layout.configured.answer}', "
            "nor marked in a solution; name the column in [evaluate] columns.answer"
        )
    problem_id = answer_text(layout.value("id", values)) or f"{index:05d}"
    return check_unicode(Problem(problem_id, question, answer, None, verifier, conversation))
