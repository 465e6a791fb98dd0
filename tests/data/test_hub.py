"""Data sets on the Hub: the paths that name them, their rows as records, and each failure in one line."""

import json
import logging
import logging.handlers
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ossft_ray.common.errors import InputError
from ossft_ray.common.types import Problem
from ossft_ray.config import Data, Evaluate
from ossft_ray.data.benchmarks import read_benchmark, read_hub_benchmark
from ossft_ray.data.hub import is_hub_id, read_hub_records
from ossft_ray.data.problems import read_problems, source_digests
from ossft_ray.data.records import Record


@pytest.mark.parametrize(
    "path, is_id",
    [
        ("AI-MO/NuminaMath-1.5", True),
        ("openai/gsm8k", True),
        ("owner/name_2.0-x", True),
        ("openai/gsm8k.jsonl", False),
        ("data/train.parquet", False),
        ("data/train.jsonl.gz", False),
        ("gsm8k", False),
        ("a/b/c", False),
        ("./name", False),
        ("~/name", False),
        ("/owner/name", False),
        ("../name", False),
        ("owner/", False),
        ("owner/*", False),
        ("s3://bucket", False),
        ("here/now", False),
        ("", False),
    ],
)
def test_paths_that_name_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, is_id: bool) -> None:
    (tmp_path / "here" / "now").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert is_hub_id(path) is is_id


@pytest.fixture
def data_set(tmp_path: Path) -> str:
    """A data set in a folder, as the Hub stores it: two subsets, one of them with two splits."""
    folder = tmp_path / "data_set"
    for name, numbers in {"one/train": range(3), "one/test": range(5, 6), "two/train": range(7, 9)}.items():
        file = folder / f"{name}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps({"problem": f"q{number}"}) + "\n" for number in numbers))
    (folder / "README.md").write_text(
        "---\nconfigs:\n"
        "- config_name: one\n  data_files:\n  - {split: train, path: one/train.jsonl}\n"
        "  - {split: test, path: one/test.jsonl}\n"
        "- config_name: two\n  data_files: two/train.jsonl\n---\n"
    )
    return str(folder)


@pytest.mark.parametrize(
    "settings, numbers",
    [({"subset": "one"}, [0, 1, 2]), ({"subset": "one", "split": "test"}, [5]), ({"subset": "two"}, [7, 8])],
)
def test_a_real_data_set(data_set: str, settings: dict[str, str], numbers: list[int]) -> None:
    pytest.importorskip("datasets", reason="needs the extra `hub`")
    records = list(read_hub_records(data_set, Data(path="owner/name", **settings)))
    assert records == [Record(data_set, row, {"problem": f"q{n}"}) for row, n in enumerate(numbers, start=1)]


@pytest.mark.parametrize(
    "settings, words",
    [
        ({}, ["Config name is missing", "['one', 'two']"]),
        ({"subset": "three"}, ["(subset three, split train, revision main)", "'three' not found", "['one', 'two']"]),
        (
            {"subset": "two", "split": "test"},
            ["(subset two, split test, revision main)", "Bad split: test", "['train']"],
        ),
    ],
)
def test_a_missing_subset_or_split_is_refused(data_set: str, settings: dict[str, str], words: list[str]) -> None:
    pytest.importorskip("datasets", reason="needs the extra `hub`")
    with pytest.raises(InputError) as caught:
        list(read_hub_records(data_set, Data(path="owner/name", **settings)))
    line = str(caught.value)
    assert line.startswith(
        f"[data] path: {data_set}: there is no such file here, and the Hub's data set cannot be read"
    )
    assert "\n" not in line and all(word in line for word in words), line


def test_a_broken_data_set_is_reported_once(data_set: str) -> None:
    pytest.importorskip("datasets", reason="needs the extra `hub`")
    logger, heard = logging.getLogger("datasets"), logging.handlers.BufferingHandler(100)
    logger.setLevel(logging.WARNING)
    logger.addHandler(heard)
    Path(data_set, "two", "train.jsonl").write_text('{"problem": "q"}\n{"problem": \n')
    with pytest.raises(InputError, match=r"cannot be read .* JSON parse error"):
        list(read_hub_records(data_set, Data(path="owner/name", subset="two")))
    logger.removeHandler(heard)
    assert heard.buffer == []


def stub(monkeypatch: pytest.MonkeyPatch, load_dataset: Any) -> None:
    module = ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)


def raising(error: Exception) -> Any:
    def load_dataset(*arguments: Any, **keywords: Any) -> Any:
        raise error

    return load_dataset


GATED = "Dataset 'owner/name' is a gated dataset on the Hub. You must be authenticated to access it."


@pytest.mark.parametrize(
    "error, words",
    [
        (FileNotFoundError("Dataset 'owner/name' doesn't exist on the Hub or cannot be accessed."), "doesn't exist on"),
        (PermissionError(f"{GATED}\nSee https://..."), f"{GATED} See https://..."),
        (ConnectionError("Couldn't reach 'owner/name' on the Hub (OfflineModeIsEnabled)"), "(OfflineModeIsEnabled)"),
        (RuntimeError("Dataset scripts are no longer supported, but found name.py"), "scripts are no longer supported"),
        (TimeoutError(), "TimeoutError"),
        (ValueError("long " * 1000), "long long"),
    ],
)
def test_failures_of_the_hub(monkeypatch: pytest.MonkeyPatch, error: Exception, words: str) -> None:
    stub(monkeypatch, raising(error))
    with pytest.raises(InputError) as caught:
        list(read_problems(Data(path="owner/name", revision="v2")))
    line = str(caught.value)
    assert line.startswith("[data] path: owner/name: there is no such file here, and the Hub's data set cannot be read")
    assert "(subset default, split train, revision v2)" in line
    assert words in line and "\n" not in line and len(line) < 500


def test_an_interrupted_stream_names_the_last_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield {"problem": "q", "solution": r"\boxed{1}"}
        raise ConnectionError("reset by peer")

    stub(monkeypatch, lambda *arguments, **keywords: rows())
    problems = read_problems(Data(path="owner/name"))
    assert next(problems)
    with pytest.raises(InputError, match=r"owner/name: after row 1 it cannot be read .*: reset by peer"):
        next(problems)


def test_arguments_of_load_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(*arguments: Any, **keywords: Any) -> list[dict[str, Any]]:
        asked.append((arguments, keywords))
        return [{"question": f"q{number}", "answer": f"so\n#### {number}"} for number in range(3)]

    stub(monkeypatch, load_dataset)
    data = Data(path="owner/name", subset="main", split="test", revision="abc", limit=2)
    items = list(read_problems(data))
    assert asked == [(("owner/name", "main"), {"split": "test", "revision": "abc", "streaming": True})]
    assert items == [
        (
            Record("owner/name", 1, {"question": "q0", "answer": "so\n#### 0"}),
            Problem("00000000", "q0", "0", "so"),
        ),
        (
            Record("owner/name", 2, {"question": "q1", "answer": "so\n#### 1"}),
            Problem("00000001", "q1", "1", "so"),
        ),
    ]


def test_a_missing_library_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"owner/name: there is no such file here, .*: pip install 'ossft-ray\[hub\]'"):
        list(read_problems(Data(path="owner/name")))


def test_a_digest_reads_no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    stub(monkeypatch, raising(AssertionError("not to be read")))
    changes: list[dict[str, str]] = [{}, {"path": "owner/other"}, {"subset": "s"}, {"split": "test"}, {"revision": "r"}]
    digests = [source_digests(Data(**{"path": "owner/name", **change})) for change in changes]  # type: ignore[arg-type]
    assert len({tuple(digest) for digest in digests}) == len(changes)
    assert digests[0] == source_digests(Data(path="owner/name", limit=3, no_answer="expert"))


# For each of the paper's benchmarks: its data set on the Hub, a row of it, and the problem of that row.
HUB_BENCHMARKS = [
    (
        "math500",
        ("HuggingFaceH4/MATH-500", None, "test"),
        {
            "problem": "1+1?",
            "solution": r"\boxed{2}",
            "answer": "2",
            "subject": "Algebra",
            "level": 1,
            "unique_id": "u",
        },
        Problem("00000", "1+1?", "2", None),
    ),
    (
        "minerva_math",
        ("math-ai/minervamath", None, "test"),
        {"question": "How far?", "answer": "4.5e33"},
        Problem("00000", "How far?", "4.5e33", None),
    ),
    (
        "olympiadbench",
        ("Hothan/OlympiadBench", "OE_TO_maths_en_COMP", "train"),
        {"id": 1606, "context": None, "question": "N?", "solution": ["so 2"], "final_answer": ["2"], "unit": None},
        Problem("1606", "N?", "2", None),
    ),
    (
        "aime24",
        ("HuggingFaceH4/aime_2024", None, "train"),
        {"id": 60, "problem": "t?", "solution": "so", "answer": "204", "url": "u", "year": "2024"},
        Problem("60", "t?", "204", None),
    ),
    (
        "amc23",
        ("math-ai/amc23", None, "test"),
        {"id": 0, "question": "miles?", "answer": "27.0", "url": "u"},
        Problem("0", "miles?", "27.0", None),
    ),
]


@pytest.mark.parametrize("name, place, row, problem", HUB_BENCHMARKS, ids=[row[0] for row in HUB_BENCHMARKS])
def test_the_papers_benchmarks_by_name(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    place: tuple[str, str | None, str],
    row: dict[str, Any],
    problem: Problem,
) -> None:
    asked: list[tuple[Any, ...]] = []

    def load_dataset(path: str, subset: str | None, split: str, revision: str | None, streaming: bool) -> list[Any]:
        asked.append((path, subset, split, streaming))
        return [row]

    read_hub_benchmark.cache_clear()
    stub(monkeypatch, load_dataset)
    assert read_benchmark(name, Evaluate()) == [problem] == read_benchmark(name, Evaluate())
    assert asked == [(*place, False)], "read once, and kept on disk"
    read_hub_benchmark.cache_clear()
