"""An output that some node does not see is refused before anything is spent; asked of real nodes with homes apart."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ossft_ray.common.errors import InputError
from ossft_ray.config import resolve
from ossft_ray.distributed.shared_output import check_sees_run, refusal
from ossft_ray.run_folder.names import CONFIG


@pytest.mark.parametrize(
    "blind, words",
    [
        ({}, None),
        ({"b (10.0.0.2)": "does not see"}, ["/runs/x", "all 3 nodes", "b (10.0.0.2): does not see", "s3://"]),
        ({"c": "read-only", "b": "no answer"}, ["(b: no answer; c: read-only)"]),
    ],
    ids=["all see it", "one does not", "two do not"],
)
def test_what_is_said_of_nodes_that_cannot_use_the_output(blind: dict[str, str], words: list[str] | None) -> None:
    said = refusal("/runs/x", blind, 3)
    assert (said is None) == (words is None)
    for word in words or []:
        assert said is not None and word in said


def test_a_worker_on_a_node_without_the_run_refuses(tmp_path: Path) -> None:
    settings = {"run": {"output": str(tmp_path)}, "policy": {"model": "playground"}, "data": {"path": "p.jsonl"}}
    experiment = resolve(settings)
    with pytest.raises(InputError, match=rf"node \S+ does not see {tmp_path}/config\.json; give a folder that all"):
        check_sees_run(experiment)
    (tmp_path / CONFIG).write_text("{}")
    check_sees_run(experiment)


NODES = """
    import os, sys
    from pathlib import Path
    from ray.cluster_utils import Cluster
    import ray
    from ossft_ray.common.errors import InputError
    from ossft_ray.distributed.shared_output import check_shared

    home = Path(sys.argv[1])
    os.environ["HOME"] = str(home / "a")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
    for (name, where) in (("alone", None), ("together", home / "a"), ("apart", home / "b")):
        if where is not None:
            cluster.add_node(num_cpus=1, env_vars={"HOME": str(where)})
        try:
            check_shared("~/run")
            print(name, "fine")
        except InputError as error:
            print(name, "refused:", error)
    print("left", [path.name for path in home.rglob(".shared-*")])
    ray.shutdown()
    cluster.shutdown()
"""


def test_nodes_are_asked(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    environment |= {"RAY_AUTH_MODE": "disabled"}  # a token would lie in the home
    command = [sys.executable, "-c", textwrap.dedent(NODES), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    alone, together, apart, left = done.stdout.splitlines() or [done.stderr] * 4
    assert (alone, together, left) == ("alone fine", "together fine", "left []")
    assert apart.startswith("apart refused: [run] output: ~/run is not shared by all 3 nodes of the cluster (")
    assert apart.count("does not see the files of the others") == 1
