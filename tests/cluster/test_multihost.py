"""Three hosts, brought up by `ray up` on cluster/local.yaml, do what is submitted through jobs/; then hosts die.

The hosts are namespaces on this machine (`hosts.py`); sshd, rsync, Ray's launcher, Ray, vLLM and DeepSpeed are real.
A fourth host is the laptop that the cluster is brought up and jobs are submitted from: it reaches the others through
SSH alone. Run it alone: `make multihost`.
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
CUT_SECONDS = 30
STEPS = 24  # 3 epochs of 8
EXACT = ("step", "loss", "cross_entropy", "learning_rate")
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
    """The hosts, and the folder that they share."""

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
        """A script of jobs/ on the laptop; what it prints goes to a file in the shared folder."""
        with (self.shared / f"{run}.log").open("a") as log:
            script, config = ROOT / f"jobs/{stage}.sh", self.experiment(run)
            return self.laptop.popen(script, config, "--ssh", "head", *options, stdout=log, stderr=log)

    def finish(self, job: subprocess.Popen[str], run: str, seconds: float = 700) -> None:
        assert job.wait(timeout=seconds) == 0, (self.shared / f"{run}.log").read_text()

    def alive(self) -> set[str]:
        """Names of the hosts that Ray counts as alive."""
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

    def wait_for_draws(self, job: subprocess.Popen[str], run: str, seconds: float = 400) -> Host:
        """Until the policy of one of the workers has drawn something and has more to do; returns that worker."""
        folder = self.shared / run
        at_work: list[Host] = []

        def seen() -> bool:
            assert job.poll() is None, f"it ended before a worker drew: {(self.shared / f'{run}.log').read_text()}"
            logs = [path.read_text() for path in (folder / "logs").glob("rewrite-*.log")]
            host_of = {life: host for log in logs for life, host in re.findall(r"worker (\S+) on (\S+)", log)}
            draws = {path.name: text_of(path) for path in (folder / "rewrite/unfinished").glob("*.jsonl")}
            names = {host_of[name.split(".")[1]] for name, text in draws.items() if '"end"' in text}
            at_work[:] = [host for host in self.workers if host.name in names]
            return bool(at_work)

        wait(seen, lambda: f"no worker drew: {list(folder.glob('*/*'))}", seconds, every=0.1)
        return at_work[0]

    def wait_for_nodes(self, seconds: float = 180) -> None:
        wait(lambda: self.alive() == {host.name for host in self.nodes}, lambda: f"alive: {self.alive()}", seconds)


def text_of(path: Path) -> str:
    """Of a file that may be deleted meanwhile."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def wait(seen: Callable[[], bool], state: Callable[[], str], seconds: float = 180, every: float = 0.5) -> None:
    deadline = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < deadline, state()
        time.sleep(every)


def cluster_file(cluster: Cluster, name: str) -> dict[str, Any]:
    """cluster/local.yaml with what it says to change changed; the environment is there already, the same on all."""
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
    with hosts(["head", "worker-1", "worker-2", "laptop"], folder) as made:
        laptop = made.pop("laptop")
        cluster = Cluster(laptop, made.pop("head"), list(made.values()), shared)
        ssh = laptop.home / ".ssh"
        ssh.mkdir(mode=0o700)
        (ssh / "id_ed25519").write_bytes((folder / "key").read_bytes())
        (ssh / "id_ed25519").chmod(0o600)
        (ssh / "config").write_text("Host *\n  User root\n  StrictHostKeyChecking no\n  LogLevel ERROR\n")
        assert laptop.run(RAY, "get-auth-token", "--generate").returncode == 0
        file = shared / "cluster.yaml"
        file.write_text(yaml.safe_dump(cluster_file(cluster, folder.parent.name)))
        for _ in range(3):  # `ray start` gives up after 30 seconds, which is little on two busy cores
            up = laptop.run(RAY, "up", "--yes", "--no-config-cache", file, timeout=300)
            if up.returncode == 0:
                break
        assert up.returncode == 0, up.stdout[-3000:]
        cluster.wait_for_nodes()
        yield cluster
        down = laptop.run(RAY, "down", "--yes", file)
        assert down.returncode == 0, down.stdout
        left = lambda: [p for host in cluster.nodes for p in host.processes("raylet")]  # noqa: E731
        wait(lambda: not left(), lambda: f"ray down left running: {left()}")  # a worker ends when it misses its head


@dataclass(frozen=True)
class Quiet:
    """A run on all three hosts that nothing disturbed."""

    rows: dict[str, Any]
    curve: list[dict[str, Any]]


@pytest.fixture(scope="module")
def quiet(cluster: Cluster) -> Quiet:
    for stage in ("rewrite", "train"):
        cluster.finish(cluster.submit(stage, "quiet"), "quiet")
    return Quiet(rows_of(cluster, "quiet"), curve_of(cluster, "quiet"))


def rows_of(cluster: Cluster, run: str) -> dict[str, Any]:
    """What matters of each problem's row; asserts that there is one of each."""
    rows = [
        row
        for part in sorted((cluster.shared / run / "rewrite").glob("part-*.parquet"))
        for row in pq.read_table(part).to_pylist()
    ]
    by_id = {
        row["problem_id"]: (row["origin"], row["response"], row["response_token_ids"], row["attempts"]) for row in rows
    }
    assert len(rows) == len(by_id) == NUM_PROBLEMS, "a row is missing or there twice"
    return by_id


def hosts_of_ranks(cluster: Cluster, run: str) -> dict[int, str]:
    """Where each rank of the training was at last."""
    logs = [path.read_text() for path in sorted((cluster.shared / run / "logs").glob("train-*.log"))]
    return {int(rank): host for log in logs for rank, host in re.findall(r"rank (\d+) of 3 on (\S+)", log)}


def curve_of(cluster: Cluster, run: str) -> list[dict[str, Any]]:
    lines = (cluster.shared / run / "train/metrics.jsonl").read_text().splitlines()
    return [{key: line[key] for key in EXACT} for line in map(json.loads, lines)]


def test_work_runs_on_every_host(cluster: Cluster, quiet: Quiet):
    manifest = json.loads((cluster.shared / "quiet/rewrite/manifest.json").read_text())
    names = {host.name for host in cluster.nodes}
    assert set(manifest["hosts"]) == names, manifest["hosts"]
    ranks = hosts_of_ranks(cluster, "quiet")
    assert sorted(ranks) == [0, 1, 2] and len(set(ranks.values())) > 1, ranks
    assert [host for host, _ in itertools.groupby(ranks[rank] for rank in range(3))] == list(
        dict.fromkeys(ranks.values())
    ), "a host's ranks follow one another"
    assert [line["step"] for line in quiet.curve] == list(range(1, STEPS + 1))
    origins = {origin for origin, *_ in quiet.rows.values()}
    assert origins == {"self", "guided", "expert"}


def test_host_dies_while_rewriting(cluster: Cluster, quiet: Quiet):
    """The others do its work; when it is there again, the launcher brings Ray back to it."""
    job = cluster.submit("rewrite", "host-dies")
    victim = cluster.wait_for_draws(job, "host-dies")
    victim.crash()
    cluster.finish(job, "host-dies")
    assert rows_of(cluster, "host-dies") == quiet.rows
    victim.boot()
    cluster.wait_for_nodes()


def test_host_dies_while_training(cluster: Cluster, quiet: Quiet):
    """Training goes on from the last checkpoint on the hosts that are left, as if nothing had been."""
    folder = cluster.shared / "training-dies"
    examples = f"train.examples={cluster.shared}/quiet/rewrite"
    job = cluster.submit("train", folder.name, "--set", examples)
    metrics = folder / "train/metrics.jsonl"
    steps = lambda: metrics.read_text().count("\n") if metrics.exists() else 0  # noqa: E731
    wait(lambda: steps() >= 10, lambda: f"{steps()} steps", 400, every=0.02)
    at_work = hosts_of_ranks(cluster, folder.name).values()
    victim = next(host for host in cluster.workers if host.name in at_work)
    victim.crash()
    cluster.finish(job, folder.name)
    assert curve_of(cluster, folder.name) == quiet.curve
    log = (folder / "logs/train-0.log").read_text()
    resumed = [int(step) for step in re.findall(r"resuming after step (\d+)", log)]
    assert resumed and min(resumed) >= 8, f"it began anew: {resumed}"
    victim.boot()
    cluster.wait_for_nodes()


def test_network_is_cut_while_rewriting(cluster: Cluster, quiet: Quiet):
    """Survived, or the host counts as lost and comes back."""
    job = cluster.submit("rewrite", "cut")
    victim = cluster.wait_for_draws(job, "cut")
    victim.cut()
    time.sleep(CUT_SECONDS)
    victim.mend()
    cluster.finish(job, "cut")
    assert rows_of(cluster, "cut") == quiet.rows
    cluster.wait_for_nodes()


def test_driver_dies_and_is_submitted_again(cluster: Cluster, quiet: Quiet):
    job = cluster.submit("rewrite", "driver-dies")
    cluster.wait_for_draws(job, "driver-dies")
    (driver,) = [p for p in cluster.head.processes("ossft rewrite --config") if p.name() == "ossft"]
    driver.kill()
    assert job.wait(timeout=120) == 128 + signal.SIGKILL, (cluster.shared / "driver-dies.log").read_text()
    cluster.finish(cluster.submit("rewrite", "driver-dies"), "driver-dies")
    assert rows_of(cluster, "driver-dies") == quiet.rows
    manifest = json.loads((cluster.shared / "driver-dies/rewrite/manifest.json").read_text())
    assert manifest["sessions"] == 2
    assert 0 < manifest["redone_attempts"] <= 3 * 16 * 4, "at most what was in flight is redone"
