"""The tables of `benchmarks/row_choice.py`."""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import row_choice


def test_tables_compare_each_rule_with_the_first_response_and_mixtures_with_the_experts_alone() -> None:
    names = {"base": "base", **row_choice.KEYS}
    by_seed = [
        {key: np.full((5, 4), 0.3) + 0.1 * (key == row_choice.KEYS["experts + 1.0 own"]) for key in names.values()}
        for _ in range(3)
    ]
    lines = row_choice.tables(by_seed, {"select = all": [90, 90, 88]}, names)
    (row,) = [line for line in lines if line.startswith("| experts + 1.0 own − experts ")]
    assert row.split("|")[2].strip().startswith("+10.0")
    (row,) = [line for line in lines if line.startswith("| select = rsr − select = first ")]
    assert row.split("|")[3].strip().startswith("+0.0")
    assert any(line.startswith("| select = all | 90, 88 | 30.0") for line in lines)
    assert not any(line.startswith("| select = first − select = first") for line in lines)
