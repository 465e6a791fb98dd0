"""An output that some node does not see is refused before a stage starts."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ossft_ray.common.errors import InputError
from ossft_ray.config import resolve
from ossft_ray.distributed.shared_output import check_sees_run, not_shared
from ossft_ray.run_folder.names import CONFIG


@pytest.mark.parametrize(
    "reasons, phrases",
    [
        ({"b (10.0.0.2)": "does not see"}, ["/runs/x", "all 3 nodes", "b (10.0.0.2): does not see", "s3://"]),
        ({"c": "read-only", "b": "no answer"}, ["(b: no answer; c: read-only)"]),
    ],
    ids=["one node", "two nodes"],
)
def test_the_message_names_each_node_that_cannot_use_the_output(reasons: dict[str, str], phrases: list[str]) -> None:
    message = not_shared("/runs/x", reasons, 3)
    for phrase in phrases:
        assert phrase in message


def test_a_worker_refuses_a_node_that_does_not_see_the_run(tmp_path: Path) -> None:
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
    for (name, where) in (("one node", None), ("same home", home / "a"), ("other home", home / "b")):
        if where is not None:
            cluster.add_node(num_cpus=1, env_vars={"HOME": str(where)})
        try:
            check_shared("~/run")
            print(f"{name}: fine")
        except InputError as error:
            print(f"{name}: {error}")
    print("left:", [path.name for path in home.rglob(".shared-*")])
    ray.shutdown()
    cluster.shutdown()
"""


@pytest.mark.ray
def test_every_node_is_checked(tmp_path: Path) -> None:
    """On real Ray nodes whose homes differ, so that `~/run` is a different folder on the third."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    environment |= {"RAY_AUTH_MODE": "disabled"}  # the token would be in the home
    command = [sys.executable, "-c", textwrap.dedent(NODES), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    one_node, same_home, other_home, left = done.stdout.splitlines() or [done.stderr] * 4
    assert (one_node, same_home, left) == ("one node: fine", "same home: fine", "left: []")
    assert other_home.startswith("other home: [run] output: ~/run is not shared by all 3 nodes of the cluster (")
    assert other_home.count("does not see the files of the others") == 1
