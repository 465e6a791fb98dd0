"""Several rounds against one: all arms train for equally many steps, and report the rows and tokens of their rounds."""

import asyncio
import math
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import rounds
from fourway.lab import Method, Size

from ossft_ray.common.storage import Folder
from ossft_ray.common.types import Problem
from ossft_ray.config import Rewrite

SEEDS = range(50, 51)
SIZE = Size(num_problems=8, epochs=3, num_heldout=2, num_samples=2)


class ScriptedLab(rounds.RoundsLab):
    """Each rewrite solves the next two of its problems, and takes ten tokens for each sample of every problem."""

    def __init__(self, folder: Folder) -> None:
        super().__init__(folder, SIZE, 3, math.inf)
        self.trainings: list[tuple[str, str, int]] = []  # what was trained, from which model, for how many epochs

    async def _rewritten(
        self, problems: list[Problem], settings: Rewrite, seed: int, expert: dict[str, Any]
    ) -> list[dict[str, Any]]:
        self.generated_tokens += 10 * len(problems) * settings.self_alignment.num_samples
        by = Path(self._base).name
        made = [expert[problem.problem_id] | {"origin": "self", "by": by} for problem in problems[:2]]
        return made + [expert[problem.problem_id] for problem in problems[2:]]

    def _train(self, rows: list[dict[str, Any]], method: Method, rate: float, seed: int, target: Path) -> None:
        self.trainings.append((target.name, Path(self._base).name, method.train["epochs"]))
        target.mkdir(parents=True)

    async def _score(self, name: str, model: str, problems: Any, num_samples: int) -> dict[str, Any]:
        right = [name != "base" and "unsolved" in name] * num_samples
        scores = {level: {each.problem_id: {"correct": right} for each in found} for level, found in problems.items()}
        self._keep("scores", name, scores)
        return scores


def test_all_arms_train_for_equal_steps_and_report_tokens_and_origins(tmp_path: Path) -> None:
    lab = ScriptedLab(Folder.at(str(tmp_path)))
    assert asyncio.run(rounds.run(lab, SEEDS)) == ""
    base, name = Path(rounds.model_path(rounds.POLICY)).name, "{}-seed50-round{}".format
    from_previous = [
        [(name(arm, 1), base, 1), (name(arm, 2), name(arm, 1), 1), (name(arm, 3), name(arm, 2), 1)]
        for arm in ("rounds", "rounds, unsolved")
    ]
    from_base = [(name("rounds, unsolved, from the base", number), base, 3) for number in (1, 2, 3)]
    alone = [[(name(arm, 1), base, 3)] for arm in ("one round", "one round, more samples")]
    assert lab.trainings == [*alone[0], *from_previous[0], *from_previous[1], *from_base, *alone[1]]

    lines, figures = rounds.tables(lab.folder, SIZE, SEEDS, 3)
    table = dict(line.strip("| ").split(" | ", 1) for line in lines if "→" in line or line.endswith("0 |"))
    assert table["rounds"] == "2 / 0 / 6 → 2 / 0 / 6 → 2 / 0 / 6 | 1,920"
    assert table["rounds, unsolved"] == "2 / 0 / 6 → 4 / 0 / 4 → 6 / 0 / 2 | 1,440"
    assert table["one round"] == "2 / 0 / 6 | 640"
    assert table["one round, more samples"] == "2 / 0 / 6 | 2,560", "twice 1,280 is the first that is enough"
    assert figures["rounds, unsolved - one round"]["difference"] == pytest.approx(1.0)
    rows = lab._find("data", "rounds, unsolved-50-3")["rows"]
    assert [row.get("by") for row in rows[:4]] == [base] * 2 + [name("rounds, unsolved", 1)] * 2


def test_arms_that_were_not_run_are_named(tmp_path: Path) -> None:
    lab = ScriptedLab(Folder.at(str(tmp_path)))
    asyncio.run(lab.scores(None, 0))
    asyncio.run(lab.result("one round", 50))
    lines, figures = rounds.tables(lab.folder, SIZE, SEEDS, 3)
    assert "| rounds | not run | |" in lines and "rounds - one round" not in figures
