"""Stages on several nodes, all of Ray's making on this machine: who works where, and what a node that joins does."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def placed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """In a process of its own: the tests' own Ray has one node."""
    folder = tmp_path_factory.mktemp("nodes")
    command = [sys.executable, str(HERE / "on_many_nodes.py"), str(folder)]
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_policies_spread_and_a_node_that_joins_takes_part(placed: Any) -> None:
    assert placed["problems"] == 160
    assert placed["policies"] == sorted(placed["nodes"]), "one on each node, the third's too"
    assert placed["head"] not in placed["policies"]


def test_training_ranks_are_contiguous_on_each_node(placed: Any) -> None:
    runs = [(node, len(list(ranks))) for node, ranks in itertools.groupby(placed["ranks"])]
    assert len({node for node, _ in runs}) == len(runs) == 3, "no node comes up twice"
    assert sorted(count for _, count in runs) == [1, 2, 2], "packed on as few nodes as hold them"
    assert placed["head"] not in placed["ranks"]
