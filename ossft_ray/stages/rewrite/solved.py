"""The problems that an earlier rewrite solved: their rows are copied, so that only the others are rewritten."""

from collections.abc import Iterable
from typing import get_args

import pyarrow as pa
import pyarrow.compute as pc

from ossft_ray.common.schema import EXAMPLE_SCHEMA, check_table
from ossft_ray.common.storage import Folder
from ossft_ray.common.types import Problem, Stage
from ossft_ray.run_folder.names import PARTS
from ossft_ray.run_folder.parts import Row
from ossft_ray.run_folder.reader import columns, read_columns

_SOLVED = get_args(Stage)  # origins of verified responses: all but the expert's


class SolvedProblems:
    """The problems of a finished rewrite folder whose kept responses were sampled and verified."""

    def __init__(self, folder: Folder) -> None:
        """Read which part holds each solved problem."""
        self._folder = folder
        self._part_of: dict[str, str] = {}
        for part in folder.names(PARTS):
            table = read_columns(folder, part, columns(EXAMPLE_SCHEMA, "problem_id", "origin"))
            solved = table.filter(pc.is_in(table["origin"], pa.array(_SOLVED)))
            self._part_of |= dict.fromkeys(solved["problem_id"].to_pylist(), part)

    def rows(self, problems: Iterable[Problem]) -> dict[str, list[Row]]:
        """By id, the EXAMPLE rows of those `problems` that are solved, except those that were corrected since."""
        wanted = {each.problem_id: each for each in problems if each.problem_id in self._part_of}
        found: dict[str, list[Row]] = {}
        for part in sorted({self._part_of[problem_id] for problem_id in wanted}):
            table = check_table(self._folder.read_table(part), EXAMPLE_SCHEMA, f"{self._folder.path}/{part}")
            for row in table.to_pylist():
                problem = wanted.get(row["problem_id"])
                if problem == Problem.of(row):
                    found.setdefault(row["problem_id"], []).append(row)
        return found
