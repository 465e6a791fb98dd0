"""The Ray that a command starts cannot be reached from another machine, nor from this one without its token."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.long
# what `ossft` does until a stage has started Ray
PROGRAM = """
import json, os, subprocess, sys
from ossft_ray.cli import ossft
ossft([], standalone_mode=False)
from tests.stages.scripted import experiment
from ossft_ray.distributed.session import start_ray
start_ray(experiment(sys.argv[1]))
import psutil, ray

@ray.remote
class Worker:
    def ready(self):
        return True

worker = Worker.remote()
ray.get(worker.ready.remote())
listening = []
for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
    try:
        listening += [c.laddr.ip for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    except psutil.Error:
        continue
join = "import ray; ray.init(address='{}', logging_level='ERROR')".format(ray.get_runtime_context().gcs_address)
modes = {}, {"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
joining = [subprocess.Popen([sys.executable, "-c", join], env=os.environ | mode, stderr=-3) for mode in modes]
with_token, *without = [each.wait(timeout=200) for each in joining]
print(json.dumps({"listening": listening, "with_token": with_token, "without": without}))
"""


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Any:
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_MODE")}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    run = tmp_path_factory.mktemp("local") / "run"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(run)], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_ray_listens_on_loopback_only(started: Any) -> None:
    assert len(started["listening"]) > 4, "GCS, raylet, agents, driver and worker"
    assert {ip.removeprefix("::ffff:") for ip in started["listening"]} == {"127.0.0.1"}


def test_joining_ray_requires_the_token(started: Any) -> None:
    assert started["with_token"] == 0
    assert 0 not in started["without"]
