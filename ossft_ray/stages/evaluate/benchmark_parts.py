"""A benchmark's problems in parts: their names, their files in a model's folder, and which are missing."""

from ossft_ray.common.errors import InputError
from ossft_ray.common.storage import Folder
from ossft_ray.common.types import Problem
from ossft_ray.run_folder.names import BENCHMARKS, SIZES, part_name
from ossft_ray.run_folder.stage_folder import fingerprint

PART_PROBLEMS = 8
Benchmarks = dict[str, list[Problem]]  # by name, in order


def folder_name(benchmark: str) -> str:
    """A benchmark's name as a folder and in `scores.json`: `/` becomes `-`."""
    return benchmark.strip("/").replace("/", "-")


def split_part(part: str) -> tuple[str, int]:
    """The benchmark and the number of a part, which is named BENCHMARK#NUMBER."""
    benchmark, _, number = part.rpartition("#")
    return benchmark, int(number)


def num_parts(problems: list[Problem]) -> int:
    return -(-len(problems) // PART_PROBLEMS)


def num_problems(benchmarks: Benchmarks, parts: list[str]) -> int:
    """The problems in these parts; a benchmark's last part may be smaller than the others."""
    of_parts = (benchmarks[name][number * PART_PROBLEMS :] for name, number in map(split_part, parts))
    return sum(min(PART_PROBLEMS, len(problems)) for problems in of_parts)


def missing_parts(folder: Folder, benchmarks: Benchmarks) -> list[str]:
    """The parts that a model's folder lacks, benchmark by benchmark."""
    return [
        f"{name}#{number}"
        for name, problems in benchmarks.items()
        for number in range(num_parts(problems))
        if not (folder / folder_name(name)).exists(part_name(number))
    ]


def record_benchmarks(folder: Folder, benchmarks: Benchmarks) -> dict[str, str]:
    """Note which problems each benchmark's name stands for. Benchmarks may be added later, but not changed.

    Returns a digest of each benchmark's problems.

    Raises:
        InputError: a benchmark was sampled before with other problems.
    """
    digests = {name: fingerprint({"problems": list(map(_as_row, rows))}) for name, rows in benchmarks.items()}
    known = folder.read_json(BENCHMARKS) if folder.exists(BENCHMARKS) else {}
    for name, digest in digests.items():
        if known.get(name, digest) != digest:
            raise InputError(f"{folder.path}: the problems of {name} have changed; pass --start-over to sample again")
    folder.write_json(BENCHMARKS, known | digests)
    known_sizes = folder.read_json(SIZES) if folder.exists(SIZES) else {}
    sizes = {folder_name(name): {"problems": len(rows), "parts": num_parts(rows)} for name, rows in benchmarks.items()}
    folder.write_json(SIZES, known_sizes | sizes)
    return digests


def _as_row(problem: Problem) -> dict[str, str | None]:
    """A problem's fields; folders of older versions record no conversation."""
    return {name: value for name, value in vars(problem).items() if value or name != "conversation"}
