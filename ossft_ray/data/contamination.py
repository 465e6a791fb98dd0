"""Overlap of training problems with the evaluation sets, by n-grams of words as is usual for decontamination.

Two questions overlap if they share `ngram` consecutive words. Words are lower-case runs of letters and digits, so
LaTeX markup and punctuation do not count. An evaluation question that is shorter than `ngram` overlaps only with a
training question that equals it. With so few words the signs count too, or `3 + 4` would equal `3 - 4`.
"""

import contextlib
import re
from dataclasses import dataclass, field

from ossft_ray.common.errors import InputError
from ossft_ray.common.types import Problem
from ossft_ray.config import Data, Evaluate
from ossft_ray.data.benchmarks import benchmark_digest, read_benchmark

_WORD = re.compile(r"[^\W_]+")
_WORD_OR_SIGN = re.compile(r"[^\W_]+|[-+*/=<>!]")


@dataclass(frozen=True)
class Overlap:
    """A problem of a benchmark, and the words that it shares with a training question."""

    benchmark: str
    problem_id: str
    shared: str

    def __str__(self) -> str:
        return f'contaminated: {self.benchmark}/{self.problem_id} shares "{self.shared}"'


@dataclass(frozen=True)
class BenchmarkIndex:
    """An index of evaluation questions by their word n-grams; shorter questions are indexed as a whole."""

    ngram: int
    not_checked: list[str] = field(default_factory=list)  # benchmarks that cannot be read
    names: list[str] = field(default_factory=list)
    _first_ids: dict[str, dict[str, str]] = field(default_factory=dict)  # by words, then by benchmark

    def add(self, benchmark: str, problems: list[Problem]) -> None:
        """Add a benchmark; for problems that share a key, the first one is named."""
        self.names.append(benchmark)
        for problem in problems:
            for key in self._keys_of(problem.question):
                self._first_ids.setdefault(key, {}).setdefault(benchmark, problem.problem_id)

    def overlaps(self, question: str) -> list[Overlap]:
        """The first overlap with each benchmark."""
        found: dict[str, Overlap] = {}
        for key in self._keys_of(question):
            for benchmark, problem_id in self._first_ids.get(key, {}).items():
                found.setdefault(benchmark, Overlap(benchmark, problem_id, key))
        return list(found.values())

    def _keys_of(self, question: str) -> list[str]:
        text, size = question.lower(), self.ngram
        words = _WORD.findall(text)
        if len(words) < size:
            return [" ".join(_WORD_OR_SIGN.findall(text))] if words else []
        return [" ".join(words[start : start + size]) for start in range(len(words) - size + 1)]


def index_benchmarks(data: Data, evaluate: Evaluate) -> BenchmarkIndex:
    """The index for `[data] contamination`: of all benchmarks that can be read, or empty for `ignore`.

    Raises:
        InputError: contaminated problems are to be dropped, and a benchmark cannot be read.
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
    """The digests of the benchmarks that `index_benchmarks` reads; empty for a benchmark that cannot be read."""
    digests = {}
    for name in evaluate.benchmarks if data.contamination != "ignore" else []:
        digests[name] = ""
        with contextlib.suppress(InputError):
            digests[name] = benchmark_digest(name, evaluate)
    return digests
