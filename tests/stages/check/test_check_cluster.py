"""`ossft check --cluster` on real Ray nodes: two sound ones, and one that claims a GPU it does not have."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ray.exceptions import GetTimeoutError

from ossft_ray.playground.arithmetic import training_problems
from ossft_ray.stages.check.cluster import _all_reduce_fault

# a cluster in a separate process, so that the other tests' Ray is left alone
PROGRAM = """
import os, subprocess, sys
from ray.cluster_utils import Cluster

def check():
    command = [sys.executable, "-c", "from ossft_ray.cli import main; main()", *sys.argv[1:]]
    print("code", subprocess.run(command).returncode, flush=True)

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 1 << 27})
cluster.add_node(num_cpus=1, object_store_memory=1 << 27)
os.environ["RAY_ADDRESS"] = cluster.address
check()
cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=1 << 27)
check()
cluster.shutdown()
"""


@pytest.mark.long
@pytest.mark.skipif(os.path.exists("/proc/driver/nvidia"), reason="needs a machine without a GPU")
def test_every_node_is_checked(tmp_path: Path) -> None:
    data = tmp_path / "problems.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in training_problems(3)))
    keys = {
        "run.output": tmp_path / "run",
        "policy.model": "playground",
        "data.path": data,
        "data.columns.question": "question",
        "data.columns.expert_solution": "expert_solution",
        "evaluate.benchmarks": "[]",
    }
    settings = [word for key, value in keys.items() for word in ("--set", f"{key}={value}")]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "check", "--cluster", *settings],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment | {"COLUMNS": "200", "RAY_AUTH_MODE": "disabled"},
    )
    sound, _, faulty = done.stdout.partition("code 0\n")
    assert sound.count("readable") == 2, done.stdout + done.stderr
    assert "all-reduce of 64 MiB over 2 nodes: " in sound
    assert sound.splitlines()[-1] == "the cluster is sound"

    assert faulty.count("readable") == 3, done.stdout + done.stderr
    assert "none (Ray: 1)" in faulty
    problems = [line for line in faulty.splitlines() if line.startswith("problem: ")]
    assert len(problems) == 1 and "Ray counts 1 GPUs and torch sees 0" in problems[0]
    assert "error: check --cluster: 1 problem on 3 nodes, listed above" in done.stderr
    assert faulty.splitlines()[-1] == "code 1"
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.json", "logs"]


@pytest.mark.parametrize(
    "error, words",
    [
        (RuntimeError("Connection reset\n\n"), "all-reduce: Connection reset; open all ports"),
        (RuntimeError(""), "all-reduce: RuntimeError; open all ports"),
        (GetTimeoutError(), "all-reduce: not done within 120 seconds: other jobs use the GPUs, or open all ports"),
    ],
)
def test_a_failed_all_reduce_says_how_to_fix_it(error: Exception, words: str) -> None:
    assert _all_reduce_fault(error).startswith(words)
