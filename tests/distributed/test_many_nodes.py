"""Placement of policies and training workers on several Ray nodes, one of which joins later."""

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
    """The report of `on_many_nodes.py`: a separate process, because the tests' Ray has one node."""
    folder = tmp_path_factory.mktemp("nodes")
    command = [sys.executable, str(HERE / "on_many_nodes.py"), str(folder)]
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_node_gets_a_policy_even_one_that_joins_later(placed: Any) -> None:
    assert placed["problems"] == 160
    assert placed["policies"] == sorted(placed["nodes"]), "one on each node, the third included"
    assert placed["head"] not in placed["policies"]


def test_training_ranks_are_contiguous_on_each_node(placed: Any) -> None:
    runs = [(node, len(list(ranks))) for node, ranks in itertools.groupby(placed["ranks"])]
    assert len({node for node, _ in runs}) == len(runs) == 3, "the ranks on a node are consecutive"
    assert sorted(count for _, count in runs) == [1, 2, 2], "as few nodes as possible"
    assert placed["head"] not in placed["ranks"]
