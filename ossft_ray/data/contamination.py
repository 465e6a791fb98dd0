"""Does a training problem overlap with the evaluation sets? By n-grams of words, as decontamination usually goes.

Two questions overlap when they share `ngram` words in a row. Words are lower-case runs of letters and digits, so that
LaTeX's marks and punctuation play no part. An evaluation question that is shorter than that must be the whole of the
training question; with so few words the signs count too, or `3 + 4` would be `3 - 4`.
"""

import re
from dataclasses import dataclass, field

from ossft_ray.common.errors import InputError
from ossft_ray.common.types import Problem
from ossft_ray.config import Data, Evaluate
from ossft_ray.data.problems import benchmark_digest, read_benchmark

_WORD = re.compile(r"[^\W_]+")
_WORD_OR_SIGN = re.compile(r"[^\W_]+|[-+*/=<>!]")


@dataclass(frozen=True)
class Overlap:
    """A benchmark's problem, and the words that a training question shares with it."""

    benchmark: str
    problem_id: str
    shared: str

    def __str__(self) -> str:
        return f'contaminated: {self.benchmark}/{self.problem_id} shares "{self.shared}"'


@dataclass(frozen=True)
class BenchmarkIndex:
    """What the evaluation questions consist of: word n-grams, and whole questions where they are shorter."""

    ngram: int
    not_checked: list[str] = field(default_factory=list)  # benchmarks whose problems are not here
    names: list[str] = field(default_factory=list)
    _keys: dict[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)  # words -> (benchmark, id) of each

    def add(self, benchmark: str, problems: list[Problem]) -> None:
        """Index a benchmark; of problems that share a key the first is named."""
        self.names.append(benchmark)
        for problem in problems:
            place = (benchmark, problem.problem_id)
            for key in self._keys_of(problem.question):
                others = self._keys.get(key, ())
                if all(name != benchmark for name, _ in others):
                    self._keys[key] = (*others, place)

    def overlaps(self, question: str) -> list[Overlap]:
        """The first overlap with each benchmark."""
        found: dict[str, Overlap] = {}
        for key in self._keys_of(question):
            for benchmark, problem_id in self._keys.get(key, ()):
                found.setdefault(benchmark, Overlap(benchmark, problem_id, key))
        return list(found.values())

    def _keys_of(self, question: str) -> list[str]:
        text, size = question.lower(), self.ngram
        words = _WORD.findall(text)
        if len(words) < size:
            return [" ".join(_WORD_OR_SIGN.findall(text))] if words else []
        return [" ".join(words[start : start + size]) for start in range(len(words) - size + 1)]


def index_benchmarks(data: Data, evaluate: Evaluate) -> BenchmarkIndex:
    """The index that `[data] contamination` asks for: of all benchmarks that can be read, empty for `ignore`.

    Raises:
        InputError: overlapping problems are to be dropped, and a benchmark cannot be read.
    """
    index = BenchmarkIndex(data.contamination_ngram)
    if data.contamination == "ignore":
        return index
    for name in evaluate.benchmarks:
        try:
            problems = read_benchmark(name, evaluate)
        except InputError as error:
            if data.contamination == "drop":
                raise InputError(f'{error}; [data] contamination = "drop" compares with every benchmark') from error
            index.not_checked.append(name)
        else:
            index.add(name, problems)
    return index


def benchmark_digests(data: Data, evaluate: Evaluate) -> dict[str, str]:
    """What identifies the benchmarks that `index_benchmarks` would read; empty text for one that is not there."""
    return {} if data.contamination == "ignore" else {name: _digest(name, evaluate) for name in evaluate.benchmarks}


def _digest(name: str, evaluate: Evaluate) -> str:
    try:
        return benchmark_digest(name, evaluate)
    except InputError:
        return ""
