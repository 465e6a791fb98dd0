"""Jobs on a cluster of three hosts, started by `ray up` with cluster/local.yaml, while hosts and the driver die.

The hosts are simulated on this machine (`hosts.py`); sshd, rsync, Ray's launcher, Ray, vLLM and DeepSpeed are real. A
fourth host is the user's laptop: the cluster is started and jobs are submitted from there, and it reaches the other
hosts through SSH only. Run this file alone: `make multihost`.
"""

import itertools
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from ossft_ray.playground.arithmetic import training_problems
from tests.cluster.hosts import Host, hosts, why_not

pytestmark = [
    pytest.mark.multihost,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]
ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).with_name("ray")
NUM_PROBLEMS = 240
UNPLUGGED_SECONDS = 30
STEPS = 24  # 3 epochs of 8
REPRODUCIBLE = ("step", "loss", "cross_entropy", "learning_rate")
EXPERIMENT = """\
[run]
output = "{shared}/{run}"
[policy]
model = "playground"
engine = {{ max_num_seqs = 8 }}
[data]
path = "{shared}/problems.jsonl"
columns = {{ question = "question", expert_solution = "expert_solution" }}
[rewrite]
self_alignment = {{ num_samples = 4, max_tokens = 96 }}
guided_alignment = {{ num_samples = 2, max_tokens = 96 }}
[train]
global_batch_size = 30
epochs = 3
max_length = 512
precision = "fp32"
checkpoint_every = 8
[resources]
num_policies = 3
problems_in_flight = 16
num_train_workers = 3
"""


@dataclass
class Cluster:
    """The hosts and the folder that they share."""

    laptop: Host
    head: Host
    workers: list[Host]
    shared: Path

    @property
    def nodes(self) -> list[Host]:
        return [self.head, *self.workers]

    def experiment(self, run: str) -> Path:
        config = self.shared / f"{run}.toml"
        config.write_text(EXPERIMENT.format(shared=self.shared, run=run))
        return config

    def submit(self, stage: str, run: str, *options: str) -> subprocess.Popen[str]:
        """Start a script of jobs/ on the laptop, with its output in a file of the shared folder."""
        with (self.shared / f"{run}.log").open("a") as log:
            script, config = ROOT / f"jobs/{stage}.sh", self.experiment(run)
            return self.laptop.popen(script, config, "--ssh", "head", *options, stdout=log, stderr=log)

    def finish(self, job: subprocess.Popen[str], run: str, seconds: float = 700) -> None:
        assert job.wait(timeout=seconds) == 0, (self.shared / f"{run}.log").read_text()

    def alive(self) -> set[str]:
        """The names of the hosts that Ray considers alive."""
        script = (
            "import pathlib, urllib.request as u; "
            "token = pathlib.Path('~/.ray/auth_token').expanduser().read_text(); "
            "headers = {'Authorization': 'Bearer ' + token}; "
            "ask = u.Request('http://127.0.0.1:8265/nodes?view=summary', headers=headers); "
            "print(u.urlopen(ask, timeout=10).read().decode())"
        )
        answer = self.head.run(sys.executable, "-c", script)
        if answer.returncode != 0:
            return set()
        summary = json.loads(answer.stdout)["data"]["summary"]
        return {node["raylet"].get("nodeManagerHostname") for node in summary if node["raylet"].get("state") == "ALIVE"}

    def wait_for_responses(self, job: subprocess.Popen[str], run: str, seconds: float = 400) -> Host:
        """Wait until a policy on one of the workers has sampled a response and has more to do; returns that worker."""
        folder = self.shared / run
        sampling: list[Host] = []

        def some_worker_samples() -> bool:
            assert job.poll() is None, f"it ended before a worker sampled: {(self.shared / f'{run}.log').read_text()}"
            logs = [path.read_text() for path in (folder / "logs").glob("rewrite-*.log")]
            host_of = {worker_id: host for log in logs for worker_id, host in re.findall(r"worker (\S+) on (\S+)", log)}
            attempts = {path.name: text_of(path) for path in (folder / "rewrite/unfinished").glob("*.jsonl")}
            names = {host_of[name.split(".")[1]] for name, text in attempts.items() if '"end"' in text}
            sampling[:] = [host for host in self.workers if host.name in names]
            return bool(sampling)

        wait(some_worker_samples, lambda: f"no worker sampled: {list(folder.glob('*/*'))}", seconds, every=0.1)
        return sampling[0]

    def wait_for_nodes(self, seconds: float = 180) -> None:
        wait(lambda: self.alive() == {host.name for host in self.nodes}, lambda: f"alive: {self.alive()}", seconds)


def text_of(path: Path) -> str:
    """The text of a file; empty if it has just been deleted."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def wait(condition: Callable[[], bool], state: Callable[[], str], seconds: float = 180, every: float = 0.5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, state()
        time.sleep(every)


def cluster_file(cluster: Cluster, name: str) -> dict[str, Any]:
    """cluster/local.yaml with its placeholders filled in. The environment need not be installed: all hosts share it."""
    text = (ROOT / "cluster/local.yaml").read_text().replace("/shared", str(cluster.shared))
    config: dict[str, Any] = yaml.safe_load(text)
    config["cluster_name"] = name
    config["provider"] |= {"head_ip": cluster.head.address, "worker_ips": [host.address for host in cluster.workers]}
    config["auth"]["ssh_user"] = "root"
    kept = [command for command in config["setup_commands"] if "git " not in command and "make " not in command]
    config["setup_commands"] = [f"ln -sfn {ROOT} ~/ossft_ray", *kept]
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        starts = "--num-cpus=2 --object-store-memory=150000000"
        config[key] = [c.replace("ray start", f"ray start {starts}") for c in config[key]]
    return config


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("multihost")
    shared = folder / "shared"
    shared.mkdir()
    rows = training_problems(NUM_PROBLEMS, seed=7)
    (shared / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with hosts(["head", "worker-1", "worker-2", "laptop"], folder) as by_name:
        laptop, head = by_name.pop("laptop"), by_name.pop("head")
        cluster = Cluster(laptop, head, list(by_name.values()), shared)
        ssh = laptop.home / ".ssh"
        ssh.mkdir(mode=0o700)
        (ssh / "id_ed25519").write_bytes((folder / "key").read_bytes())
        (ssh / "id_ed25519").chmod(0o600)
        (ssh / "config").write_text("Host *\n  User root\n  StrictHostKeyChecking no\n  LogLevel ERROR\n")
        assert laptop.run(RAY, "get-auth-token", "--generate").returncode == 0
        file = shared / "cluster.yaml"
        file.write_text(yaml.safe_dump(cluster_file(cluster, folder.parent.name)))
        for _ in range(3):  # `ray start` gives up after 30 seconds, which may be too short on two busy cores
            up = laptop.run(RAY, "up", "--yes", "--no-config-cache", file, timeout=300)
            if up.returncode == 0:
                break
        assert up.returncode == 0, up.stdout[-3000:]
        cluster.wait_for_nodes()
        yield cluster
        down = laptop.run(RAY, "down", "--yes", file)
        assert down.returncode == 0, down.stdout
        raylets = lambda: [p for host in cluster.nodes for p in host.processes("raylet")]  # noqa: E731
        wait(lambda: not raylets(), lambda: f"still running: {raylets()}")  # workers end once they miss the head


@dataclass(frozen=True)
class UndisturbedRun:
    """What a run on all three hosts wrote while no host failed."""

    rows: dict[str, Any]
    steps: list[dict[str, Any]]


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster) -> UndisturbedRun:
    for stage in ("rewrite", "train"):
        cluster.finish(cluster.submit(stage, "undisturbed"), "undisturbed")
    return UndisturbedRun(rows_of(cluster, "undisturbed"), steps_of(cluster, "undisturbed"))


def rows_of(cluster: Cluster, run: str) -> dict[str, Any]:
    """The reproducible columns of each problem's row; asserts that each problem has one row."""
    rows = [
        row
        for part in sorted((cluster.shared / run / "rewrite").glob("part-*.parquet"))
        for row in pq.read_table(part).to_pylist()
    ]
    by_id = {
        row["problem_id"]: (row["origin"], row["response"], row["response_token_ids"], row["attempts"]) for row in rows
    }
    assert len(rows) == len(by_id) == NUM_PROBLEMS, "a row is missing or duplicated"
    return by_id


def hosts_of_ranks(cluster: Cluster, run: str) -> dict[int, str]:
    """The host on which each rank of the training last ran."""
    logs = [path.read_text() for path in sorted((cluster.shared / run / "logs").glob("train-*.log"))]
    return {int(rank): host for log in logs for rank, host in re.findall(r"rank (\d+) of 3 on (\S+)", log)}


def steps_of(cluster: Cluster, run: str) -> list[dict[str, Any]]:
    lines = (cluster.shared / run / "train/metrics.jsonl").read_text().splitlines()
    return [{key: line[key] for key in REPRODUCIBLE} for line in map(json.loads, lines)]


def test_work_runs_on_every_host(cluster: Cluster, undisturbed: UndisturbedRun) -> None:
    manifest = json.loads((cluster.shared / "undisturbed/rewrite/manifest.json").read_text())
    names = {host.name for host in cluster.nodes}
    assert set(manifest["hosts"]) == names, manifest["hosts"]
    ranks = hosts_of_ranks(cluster, "undisturbed")
    assert sorted(ranks) == [0, 1, 2] and len(set(ranks.values())) > 1, ranks
    assert [host for host, _ in itertools.groupby(ranks[rank] for rank in range(3))] == list(
        dict.fromkeys(ranks.values())
    ), "the ranks on a host are consecutive"
    assert [line["step"] for line in undisturbed.steps] == list(range(1, STEPS + 1))
    origins = {origin for origin, *_ in undisturbed.rows.values()}
    assert origins == {"self", "guided", "expert"}


def test_rewriting_survives_a_dead_host(cluster: Cluster, undisturbed: UndisturbedRun) -> None:
    """The other hosts do its work. When it is back, Ray's launcher starts Ray on it again."""
    job = cluster.submit("rewrite", "host-dies")
    victim = cluster.wait_for_responses(job, "host-dies")
    victim.crash()
    cluster.finish(job, "host-dies")
    assert rows_of(cluster, "host-dies") == undisturbed.rows
    victim.boot()
    cluster.wait_for_nodes()


def test_training_survives_a_dead_host(cluster: Cluster, undisturbed: UndisturbedRun) -> None:
    """Training resumes from the last checkpoint on the remaining hosts, with the same losses."""
    folder = cluster.shared / "host-dies-in-training"
    examples = f"train.examples={cluster.shared}/undisturbed/rewrite"
    job = cluster.submit("train", folder.name, "--set", examples)
    metrics = folder / "train/metrics.jsonl"
    num_steps = lambda: metrics.read_text().count("\n") if metrics.exists() else 0  # noqa: E731
    wait(lambda: num_steps() >= 10, lambda: f"{num_steps()} steps", 400, every=0.02)
    training = hosts_of_ranks(cluster, folder.name).values()
    victim = next(host for host in cluster.workers if host.name in training)
    victim.crash()
    cluster.finish(job, folder.name)
    assert steps_of(cluster, folder.name) == undisturbed.steps
    log = (folder / "logs/train-0.log").read_text()
    resumed = [int(step) for step in re.findall(r"resuming after step (\d+)", log)]
    assert resumed and min(resumed) >= 8, f"it did not resume from the checkpoint: {resumed}"
    victim.boot()
    cluster.wait_for_nodes()


def test_rewriting_survives_an_unplugged_host(cluster: Cluster, undisturbed: UndisturbedRun) -> None:
    """Either its connections survive, or the host counts as lost and joins again."""
    job = cluster.submit("rewrite", "unplugged")
    victim = cluster.wait_for_responses(job, "unplugged")
    victim.unplug()
    time.sleep(UNPLUGGED_SECONDS)
    victim.plug_in()
    cluster.finish(job, "unplugged")
    assert rows_of(cluster, "unplugged") == undisturbed.rows
    cluster.wait_for_nodes()


def test_a_job_with_a_dead_driver_resumes_when_submitted_again(cluster: Cluster, undisturbed: UndisturbedRun) -> None:
    job = cluster.submit("rewrite", "driver-dies")
    cluster.wait_for_responses(job, "driver-dies")
    (driver,) = [p for p in cluster.head.processes("ossft rewrite --config") if p.name() == "ossft"]
    driver.kill()
    assert job.wait(timeout=120) == 128 + signal.SIGKILL, (cluster.shared / "driver-dies.log").read_text()
    cluster.finish(cluster.submit("rewrite", "driver-dies"), "driver-dies")
    assert rows_of(cluster, "driver-dies") == undisturbed.rows
    manifest = json.loads((cluster.shared / "driver-dies/rewrite/manifest.json").read_text())
    assert manifest["sessions"] == 2
    assert 0 < manifest["redone_attempts"] <= 3 * 16 * 4, "only attempts in flight are sampled again"
