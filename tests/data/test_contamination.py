"""Overlap of training questions with evaluation questions."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from ossft_ray.common.errors import InputError
from ossft_ray.common.playground_paths import BENCHMARKS
from ossft_ray.common.types import Problem
from ossft_ray.config import Columns, Data, Evaluate
from ossft_ray.data.benchmarks import PAPER_BENCHMARKS
from ossft_ray.data.contamination import BenchmarkIndex, benchmark_digests, index_benchmarks
from ossft_ray.data.problems import Rejection, read_problems
from ossft_ray.playground.arithmetic import training_problems
from tests.data_folder import DATA, needs_data

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
NAMES = Columns(question="question", expert_solution="expert_solution")


def index(*questions: str, ngram: int = 13) -> BenchmarkIndex:
    found = BenchmarkIndex(ngram)
    found.add("bench", [Problem(f"b{number}", question, "1", None) for number, question in enumerate(questions)])
    return found


def shared(found: BenchmarkIndex, question: str) -> list[str]:
    return [overlap.shared for overlap in found.overlaps(question)]


@pytest.mark.parametrize(
    "evaluation, training, overlap",
    [
        (LONG, LONG, " ".join(LONG.split()[:13])),
        (LONG, f"zero {LONG} fifteen", " ".join(LONG.split()[:13])),
        (LONG, f"zero {' '.join(LONG.split()[1:])}", " ".join(LONG.split()[1:])),
        (LONG, " ".join(LONG.split()[:13]), " ".join(LONG.split()[:13])),
        (LONG, " ".join(LONG.split()[:12]), None),
        (LONG, LONG.replace("seven", "six"), None),
        (LONG, LONG.upper().replace(" ", ", "), " ".join(LONG.split()[:13])),
        (LONG, "$" + LONG.replace(" ", r"} \{") + "$", " ".join(LONG.split()[:13])),
        ("What is 3 + 4?", "what is $3+4$", "what is 3 + 4"),
        ("What is 3 + 4?", "What is 3 - 4?", None),
        ("What is 3 + 4?", "What is 3 4?", None),
        ("What is 3 + 4?", f"What is 3 + 4? {LONG}", None),
        ("What is 3 + 4?", "What is 3 + 4 + 5?", None),
        (r"$\sin 60^\circ$", r"\sin 60^{\circ}.", "sin 60 circ"),
        ("...", "?", None),
        ("", "", None),
    ],
)
def test_overlap(evaluation: str, training: str, overlap: str | None) -> None:
    assert shared(index(evaluation), training) == ([overlap] if overlap else [])


@pytest.mark.parametrize("ngram, num_found", [(1, 1), (3, 1), (4, 0)])
def test_ngram_sets_how_many_words_must_match(ngram: int, num_found: int) -> None:
    assert len(index("a b c d e f", ngram=ngram).overlaps("x y b c d z")) == num_found


def test_each_benchmark_is_named_once_with_its_first_problem() -> None:
    found = index(LONG, LONG)
    found.add("other", [Problem("o", f"{LONG} fifteen", "1", None)])
    found.add("apart", [Problem("x", "nothing of it", "1", None)])
    texts = [str(overlap) for overlap in found.overlaps(LONG)]
    words = " ".join(LONG.split()[:13])
    assert texts == [f'contaminated: {name} shares "{words}"' for name in ("bench/b0", "other/o")]
    assert found.names == ["bench", "other", "apart"]


def write(path: Path, *questions: str) -> str:
    path.write_text("".join(json.dumps({"problem": question, "answer": "1"}) + "\n" for question in questions))
    return str(path)


def test_unreadable_benchmarks_are_listed_or_refused(tmp_path: Path) -> None:
    evaluate = Evaluate(benchmarks=[write(tmp_path / "x.jsonl", LONG), "math500", "playground/level1"])
    found = index_benchmarks(Data(path="x"), evaluate)
    assert found.names == [str(tmp_path / "x.jsonl"), "playground/level1"]
    assert found.not_checked == ["math500"]
    assert len(found.overlaps(LONG)) == 1
    with pytest.raises(
        InputError, match=r"'math500': .* the Hub's data set cannot be read .*contamination = \"drop\" compares"
    ):
        index_benchmarks(Data(path="x", contamination="drop"), evaluate)
    ignoring = index_benchmarks(Data(path="x", contamination="ignore"), evaluate)
    assert (ignoring.names, ignoring.not_checked, ignoring.overlaps(LONG)) == ([], [], [])


def test_digests_distinguish_benchmarks(tmp_path: Path) -> None:
    evaluate = Evaluate(benchmarks=[write(tmp_path / "x.jsonl", LONG), "math500"])
    name = evaluate.benchmarks[0]
    first = benchmark_digests(Data(path="x"), evaluate)
    assert first["math500"].startswith("hub:HuggingFaceH4/MATH-500 ") and first[name]
    nowhere = Evaluate(benchmarks=["math500"], data_dir="/nowhere")
    assert benchmark_digests(Data(path="x"), nowhere) == {"math500": ""}
    write(tmp_path / "x.jsonl", "other")
    assert benchmark_digests(Data(path="x"), evaluate)[name] != first[name]
    assert benchmark_digests(Data(path="x", contamination="ignore"), evaluate) == {}


def count(data: Data, evaluate: Evaluate) -> dict[str, int]:
    found = index_benchmarks(data, evaluate)
    assert found.not_checked == []
    counts = dict.fromkeys(found.names, 0)
    for item in read_problems(data):
        assert not isinstance(item, Rejection)
        for overlap in found.overlaps(item[1].question):
            counts[overlap.benchmark] += 1
    return counts


def test_demo_problems_do_not_overlap_with_held_out_ones(tmp_path: Path) -> None:
    rows = training_problems(960)
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = Data(path=str(tmp_path / "x.jsonl"), columns=NAMES)
    assert count(data, Evaluate(benchmarks=list(BENCHMARKS))) == dict.fromkeys(BENCHMARKS, 0)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_problem_of_a_held_out_set_overlaps_with_itself(name: str) -> None:
    data = Data(path=str(BENCHMARKS[name]), columns=NAMES)
    assert count(data, Evaluate(benchmarks=[name])) == {name: 80}


@needs_data
@pytest.mark.parametrize(
    "file, benchmarks, counts",
    [
        ("gsm8k_train", list(PAPER_BENCHMARKS), [0, 0, 0, 0, 0]),
        ("math500", ["math500"], [500]),
        ("math500", ["minerva_math", "amc23"], [0, 0]),
    ],
)
def test_real_data(file: str, benchmarks: list[str], counts: list[int]) -> None:
    evaluate = Evaluate(benchmarks=benchmarks, data_dir=str(DATA))
    found = count(Data(path=str(DATA / f"{file}.jsonl")), evaluate)
    assert found == dict(zip(benchmarks, counts, strict=True))


def test_an_evaluation_question_inside_a_longer_text_is_found() -> None:
    rng = random.Random(0)
    questions: list[Any] = [" ".join(str(rng.randint(0, 99)) for _ in range(40)) for _ in range(200)]
    found = index(*questions)
    for number, question in enumerate(questions):
        (overlap,) = found.overlaps(f"Before it, {question} and after it.")
        assert overlap.problem_id == f"b{number}"
