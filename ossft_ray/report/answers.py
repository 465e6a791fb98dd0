"""Answers of the base model and of the trained one to the same benchmark problems, side by side with their verdicts."""

from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from markupsafe import escape

from ossft_ray.common.schema import SAMPLE_SCHEMA
from ossft_ray.common.storage import Folder
from ossft_ray.report.examples import share_evenly, shorten, spread
from ossft_ray.run_folder.names import BASE, EVALUATE, PARTS, TRAINED
from ossft_ray.run_folder.reader import RunFolder, columns, read_columns

NUM_ANSWERS = 80  # pairs, of all runs together
MAX_BYTES = 1_000_000  # of their texts
_MAX_CHARACTERS = 3_000  # of one text
_VERDICTS = columns(SAMPLE_SCHEMA, "problem_id", "index", "correct")
_TEXTS = columns(SAMPLE_SCHEMA, "question", "answer", "response", "reason", "correct", "extracted", "num_tokens")
CHANGES = {
    (False, True): "now correct",
    (True, False): "now wrong",
    (True, True): "correct in both",
    (False, False): "wrong in both",
}


@dataclass(frozen=True)
class ChosenAnswers:
    """Pairs of answers: the other model, the number of problems with each change, and the rows that are shown."""

    model: str
    num_all: dict[str, int]
    rows: list[dict[str, Any]]


@dataclass
class _Answers:
    """A model's answers to one problem: its first sample's place and verdict, and how many samples are correct."""

    place: tuple[str, int] = ("", 0)
    correct: bool = False
    num_correct: int = 0
    num_samples: int = 0


def choose_answers(run: RunFolder, num_answers: int, max_bytes: int = MAX_BYTES) -> ChosenAnswers | None:
    """Choose pairs of the two models' first samples, an even share of each change of the verdict.

    Each row has `benchmark`, `problem_id`, `change`, `question`, `answer`, and `sides`: for each model its `name`, its
    first `response` with the verdict, and `num_correct` of `num_samples`. None if there are no samples of two models.

    Raises:
        InputError: a part cannot be read, or lacks a column.
    """
    others = [model for model in run.accuracies if model != BASE]
    if BASE not in run.accuracies or not others:
        return None
    models = (BASE, TRAINED if TRAINED in others else others[0])
    places: dict[str, list[tuple[Any, ...]]] = {change: [] for change in CHANGES.values()}
    for benchmark in run.accuracies[BASE]:
        folders = [run.folder / EVALUATE / model / benchmark for model in models]
        before, after = map(_answers, folders)
        for problem_id in (each for each in before if each in after):
            pair = before[problem_id], after[problem_id]
            change = CHANGES[pair[0].correct, pair[1].correct]
            places[change].append((benchmark, problem_id, folders, pair))
    num_all = {change: len(found) for change, found in places.items()}
    quotas = share_evenly(num_all, num_answers)
    chosen = [spread([(change, *place) for place in found], quotas[change]) for change, found in places.items()]
    rows, size = [], 0
    for place in (place for in_turn in zip_longest(*chosen) for place in in_turn if place is not None):
        row = _row(models, *place)
        size += sum(len(escape(text)) for text in (row["question"], *(side["response"] for side in row["sides"])))
        if size > max_bytes:
            break
        rows.append(row)
    return ChosenAnswers(models[1], num_all, rows) if rows else None


def _answers(folder: Folder) -> dict[str, _Answers]:
    found: dict[str, _Answers] = {}
    for part in folder.names(PARTS):
        for number, row in enumerate(read_columns(folder, part, _VERDICTS).to_pylist()):
            answers = found.setdefault(row["problem_id"], _Answers())
            answers.num_samples += 1
            answers.num_correct += bool(row["correct"])
            if row["index"] == 0:
                answers.place, answers.correct = (part, number), bool(row["correct"])
    return {problem_id: answers for problem_id, answers in found.items() if answers.place[0]}


def _row(
    models: tuple[str, str],
    change: str,
    benchmark: str,
    problem_id: str,
    folders: list[Folder],
    pair: tuple[_Answers, _Answers],
) -> dict[str, Any]:
    sides = []
    for model, folder, answers in zip(models, folders, pair, strict=True):
        part, number = answers.place
        [sample] = read_columns(folder, part, _TEXTS).slice(number, 1).to_pylist()
        sides.append(
            sample
            | {"name": model, "num_correct": answers.num_correct, "num_samples": answers.num_samples}
            | {"response": shorten(sample["response"] or "", _MAX_CHARACTERS)}
        )
    row = {"benchmark": benchmark, "problem_id": problem_id, "change": change, "sides": sides}
    return row | {"question": shorten(sides[0]["question"], _MAX_CHARACTERS), "answer": sides[0]["answer"]}
