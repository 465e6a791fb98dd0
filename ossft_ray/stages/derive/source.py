"""The run that others are derived from: its settings, and its problems with their recorded attempts and scores."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ossft_ray.common.errors import InputError
from ossft_ray.common.schema import DROPPED_SCHEMA, EXAMPLE_SCHEMA, PROBLEM_SCHEMA, SCORE_SCHEMA
from ossft_ray.common.storage import Folder
from ossft_ray.common.types import Attempt, Problem, Stage
from ossft_ray.config import Experiment, resolve
from ossft_ray.method.gap import LogprobSums
from ossft_ray.run_folder.names import CONFIG, INPUTS, MANIFEST, PARTS, PROBLEMS, REWRITE, SCORE
from ossft_ray.run_folder.parts import read_dropped
from ossft_ray.run_folder.reader import RunFolder, columns, open_run, read_columns, read_json
from ossft_ray.run_folder.resolved_run import Run
from ossft_ray.stages.rewrite.attempt_log import recorded_attempts

Attempts = dict[tuple[Stage, int], Attempt]
Scores = dict[tuple[int, ...], LogprobSums]  # by the tokens of a response
_RECORDED = columns(EXAMPLE_SCHEMA, *DROPPED_SCHEMA.names, "response", "response_token_ids", "origin", "kept_index")
_SCORED = columns(SCORE_SCHEMA, "problem_id", "token_ids", "reference_logprobs")


@dataclass(frozen=True)
class Source:
    """A complete rewrite."""

    name: str  # as its user wrote it
    run_folder: RunFolder
    inputs: dict[str, Any]  # what its rows depend on
    experiment: Experiment

    @classmethod
    def open(cls, run: str) -> "Source":
        """The run in a folder; of several rounds, the first.

        Raises:
            InputError: the folder holds no complete rewrite, or not the experiment that made it.
        """
        found = open_run(run)
        if not found.rewrite_manifest:
            raise InputError(f"{run}: its rewriting is not complete; let `ossft rewrite` finish it")
        inputs = read_json(found.rewrite, INPUTS)
        if not found.experiment or "rewrite" not in inputs or not (found.rewrite / PROBLEMS).exists():
            missing = CONFIG if not found.experiment else f"{REWRITE}/{INPUTS if 'rewrite' not in inputs else PROBLEMS}"
            raise InputError(f"{run}: has no {missing}, so it is unknown how its rows were made; rewrite again")
        # A later command may have put other settings into config.json. The inputs are those that made the rows.
        settings = {
            **found.experiment,
            "run": {**found.experiment["run"], **inputs["run"]},
            "prompts": {**found.experiment["prompts"], **inputs["prompts"]},
            "rewrite": inputs["rewrite"],
            "train": {**found.experiment["train"], "examples": None},
        }
        return cls(run, found, inputs, resolve(settings, f"{run}/{CONFIG}", apply_task=False))

    @cached_property
    def run(self) -> Run:
        return Run(self.experiment)

    @property
    def folder(self) -> Folder:
        return self.run_folder.rewrite

    @property
    def part_names(self) -> list[str]:
        return self.folder.names(PARTS)

    def read_part(self, name: str) -> list[tuple[Problem, Attempts]]:
        """The problems of a part, and the attempts at each."""
        schema = _RECORDED.append(EXAMPLE_SCHEMA.field("behavior_logprobs"))
        rows = read_columns(self.folder, name, schema).to_pylist()
        attempts = recorded_attempts([*rows, *read_dropped(self.folder, name)])
        problems = read_columns(self.folder / PROBLEMS, name, PROBLEM_SCHEMA).to_pylist()
        return [(Problem(**row), attempts.get(row["problem_id"], {})) for row in problems]

    @cached_property
    def has_scores(self) -> bool:
        """Whether there are complete scores of these rows."""
        recorded = read_json(self.run_folder.folder / SCORE, INPUTS).get("rewrite")
        is_complete = (self.run_folder.folder / SCORE).exists(MANIFEST)
        return is_complete and recorded == self.run_folder.rewrite_manifest["fingerprint"]

    def read_scores(self, name: str) -> dict[str, Scores]:
        """The scores of a part's responses, kept and experts', by problem."""
        folder = self.run_folder.folder / SCORE
        found: dict[str, Scores] = {}
        if self.has_scores and folder.exists(name):
            for row in read_columns(folder, name, _SCORED).to_pylist():
                sums = LogprobSums.of(np.array(row["reference_logprobs"]))
                found.setdefault(row["problem_id"], {})[tuple(row["token_ids"])] = sums
        return found
