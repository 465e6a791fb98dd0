"""Evaluation problems of the playground, of the paper's benchmarks and of files, and refusals."""

import json
from pathlib import Path
from typing import Any

import pytest

from ossft_ray.common.errors import InputError
from ossft_ray.common.types import Problem
from ossft_ray.config import Columns, Evaluate
from ossft_ray.data.benchmarks import benchmark_digest, read_benchmark
from tests.data_folder import DATA, needs_data


def write(folder: Path, *rows: dict[str, Any] | str) -> str:
    file = folder / "problems.jsonl"
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(file)


@pytest.mark.parametrize("level", range(1, 6))
def test_playground_benchmarks(level: int) -> None:
    problems = read_benchmark(f"playground/level{level}", Evaluate())
    assert len(problems) == 80
    assert len({problem.problem_id for problem in problems}) == 80
    assert all(problem.expert_solution is None for problem in problems)


@needs_data
@pytest.mark.parametrize(
    "name, num_problems",
    [("math500", 500), ("minerva_math", 272), ("olympiadbench", 675), ("aime24", 30), ("amc23", 40)],
)
def test_the_papers_benchmarks(name: str, num_problems: int) -> None:
    problems = read_benchmark(name, Evaluate(data_dir=str(DATA)))
    assert len(problems) == num_problems
    assert len({problem.problem_id for problem in problems}) == num_problems
    assert all(problem.question.strip() and problem.answer.strip() for problem in problems)


def test_olympiadbench_questions_come_with_their_context(tmp_path: Path) -> None:
    path = write(tmp_path, {"question": "What is k?", "context": "Let k = 2.", "final_answer": ["2"], "id": 9})
    assert read_benchmark(path, Evaluate()) == [Problem("9", "Let k = 2.\nWhat is k?", "2", None)]


@pytest.mark.parametrize(
    "row, answer",
    [
        ({"problem": "q", "answer": 27.0}, "27"),
        ({"question": "q", "final_answer": ["1", "2"]}, "1, 2"),
        ({"problem": "q", "solution": r"\boxed{3}"}, "3"),
        ({"problem": "q", "answer": "", "solution": r"\boxed{3}"}, "3"),
    ],
)
def test_answers_of_a_file_used_as_a_benchmark(tmp_path: Path, row: dict[str, Any], answer: str) -> None:
    (problem,) = read_benchmark(write(tmp_path, row), Evaluate())
    assert (problem.question, problem.answer) == ("q", answer)


@pytest.mark.parametrize(
    "row, columns",
    [
        ({"q": "What is k?", "given": "k = 2.", "gold": 2, "key": 9}, {"question": "q", "context": "given"}),
        ({"prompt": [{"role": "user", "content": "k = 2.\nWhat is k?"}], "key": 9, "gold": 2}, {}),
    ],
)
def test_a_file_may_have_its_own_columns(tmp_path: Path, row: dict[str, Any], columns: dict[str, str]) -> None:
    settings = Evaluate(columns=Columns(**columns, answer="gold", id="key"))
    path = write(tmp_path, row)
    assert read_benchmark(path, settings) == [Problem("9", "k = 2.\nWhat is k?", "2", None)]
    assert benchmark_digest(path, settings) != benchmark_digest(path, Evaluate())
    assert read_benchmark("playground/level1", settings) == read_benchmark("playground/level1", Evaluate())
    with pytest.raises(InputError, match=r"row 1: no column 'uid'; .* name it in \[evaluate\] columns\.id"):
        read_benchmark(path, Evaluate(columns=Columns(id="uid")))


@pytest.mark.parametrize(
    "row, answer",
    [
        ({"question": "q", "answer": "1+1 = 2\n#### 2"}, "2"),  # GSM8K
        ({"problem": "q", "expected_answer": "2"}, "2"),  # OpenMathInstruct-2
        # DAPO, Skywork-OR1
        ({"prompt": [{"role": "user", "content": "q"}], "reward_model": {"ground_truth": '["2"]'}}, "2"),
        ({"prompt": [{"role": "user", "content": "q"}], "reward_model": {"ground_truth": "2", "style": "rule"}}, "2"),
        ({"messages": [{"role": "user", "content": "q"}], "answer": "2"}, "2"),
    ],
)
def test_known_layouts_are_read_as_benchmarks(tmp_path: Path, row: dict[str, Any], answer: str) -> None:
    (problem,) = read_benchmark(write(tmp_path, row), Evaluate())
    assert (problem.question, problem.answer) == ("q", answer)


@pytest.mark.parametrize(
    "name, data_dir, words",
    [
        ("playground/levle1", "", "unknown benchmark 'playground/levle1'; did you mean 'playground/level1'?"),
        ("math50", "", "unknown benchmark 'math50'; did you mean 'math500'?"),
        ("zzz", "", "unknown benchmark 'zzz'; known: playground/level1"),
        ("math500", "", "benchmark 'math500': HuggingFaceH4/MATH-500: there is no such file here, and the Hub's"),
        ("math500", "", "or set evaluate.data_dir to a folder that holds math500.jsonl"),
        ("math500", "/nowhere", "benchmark 'math500': no math500.jsonl in /nowhere; set evaluate.data_dir"),
        ("missing.jsonl", "", "missing.jsonl: no such file"),
    ],
)
def test_missing_benchmarks_are_refused(name: str, data_dir: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        read_benchmark(name, Evaluate(data_dir=data_dir))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "rows, words",
    [
        ([], "holds no problems"),
        ([{"problem": "q", "answer": "1"}, "{"], "row 2: not valid JSON"),
        ([{"answer": "1"}], "row 1: no column 'problem'; found: answer; name it in [evaluate] columns.question"),
        ([{"problem": 3, "answer": "1"}], "row 1: no question"),
        ([{"problem": "q"}], "row 1: no answer"),
        ([{"problem": "half \ud800", "answer": "1"}], "row 1: broken_row: half of a surrogate pair"),
        (
            [{"id": 1, "problem": "q", "answer": "1"}, {"id": 1, "problem": "r", "answer": "2"}],
            "row 2: id '1' is repeated",
        ),
    ],
)
def test_a_benchmark_with_an_unusable_row_is_refused(
    tmp_path: Path, rows: list[dict[str, Any] | str], words: str
) -> None:
    path = write(tmp_path, *rows)
    with pytest.raises(InputError) as caught:
        read_benchmark(path, Evaluate())
    assert path in str(caught.value) and words in str(caught.value)
