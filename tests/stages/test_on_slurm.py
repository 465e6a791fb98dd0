"""cluster/slurm.sh with Ray's symmetric-run and real training: stopped at its time limit, requeued, finished.

Slurm is replaced by a stand-in. Everything runs in separate namespaces, because symmetric-run ends with `ray stop`,
which ends every Ray that it finds. tests/cluster/test_slurm.py tests the script's decisions.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.stages.rows import write_examples

ROOT = Path(__file__).parents[2]
NAMESPACES = ["unshare", "--kill-child", "--pid", "--fork", "--mount-proc", "--net"]
ADDRESS = "10.77.9.1"
SRUN = '#!/usr/bin/env bash\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n'
SCONTROL = f'#!/usr/bin/env bash\nif [[ $1 == show ]]; then echo {ADDRESS}; else echo "$*" >>"$HOME/requeues"; fi\n'
NUM_EXAMPLES, BATCH, EPOCHS = 80, 8, 3
EXPERIMENT = """\
[run]
output = "{folder}/run"
[policy]
model = "playground"
[data]
path = "unused.jsonl"
[train]
precision = "fp32"
max_length = 512
global_batch_size = {batch}
epochs = {epochs}
checkpoint_every = 1000
"""

pytestmark = [
    pytest.mark.slow,  # seven minutes on a busy machine
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        os.geteuid() != 0 or subprocess.run([*NAMESPACES, "ip", "link"], capture_output=True).returncode != 0,
        reason="needs root, util-linux and iproute2 for its namespaces",
    ),
]


@pytest.fixture
def jobs() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for job in started:
        job.kill()


@pytest.fixture
def home() -> Iterator[Path]:
    # Ray's socket paths, limited to 107 bytes, are too long in pytest's folders
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        for program, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
            (folder / program).write_text(text)
            (folder / program).chmod(0o755)
        (folder / "token").write_text(secrets.token_hex(32))
        write_examples(str(folder / "run"), NUM_EXAMPLES)
        (folder / "experiment.toml").write_text(EXPERIMENT.format(folder=folder, batch=BATCH, epochs=EPOCHS))
        # Slurm starts a job in a repository with a .venv; this one is the tests' own
        (folder / ".venv").symlink_to(Path(sys.executable).parents[1])
        yield folder


def submit(home: Path, restarts: int) -> subprocess.Popen[str]:
    ready = f"ip link set lo up && ip address add {ADDRESS}/24 dev lo"
    inside = f'{ready}; bash {ROOT}/cluster/slurm.sh train "$HOME/experiment.toml"; exit $?'
    return subprocess.Popen(
        [*NAMESPACES, "bash", "-c", inside],
        env={
            **os.environ,
            "PATH": f"{home}:{os.environ['PATH']}",
            "HOME": str(home),
            "RAY_TMPDIR": str(home),
            "RAY_AUTH_TOKEN_PATH": str(home / "token"),
            "SLURM_JOB_ID": "4711",
            "SLURM_JOB_NODELIST": "node1",
            "SLURM_JOB_NUM_NODES": "1",
            "SLURM_CPUS_PER_TASK": "2",
            "SLURM_SUBMIT_DIR": str(home),
            "SLURM_RESTART_COUNT": str(restarts),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def steps(home: Path) -> list[int]:
    metrics = home / "run/train/metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True) if metrics.exists() else []
    return [json.loads(line)["step"] for line in lines if line.endswith("\n")]


def script(job: subprocess.Popen[str]) -> psutil.Process:
    children = psutil.Process(job.pid).children(recursive=True)
    return next(child for child in children if any(part.endswith("slurm.sh") for part in child.cmdline()[1:2]))


def test_training_is_requeued_at_its_time_limit_and_resumes(home: Path, jobs: list[subprocess.Popen[str]]) -> None:
    jobs.append(job := submit(home, 0))
    while len(steps(home)) < 3:
        assert job.poll() is None, job.communicate()[0]
        time.sleep(0.2)
    script(job).send_signal(signal.SIGUSR1)
    output, _ = job.communicate()
    assert job.returncode == 130, output
    assert (home / "requeues").read_text() == "requeue 4711\n"
    before, total = steps(home), NUM_EXAMPLES // BATCH * EPOCHS
    assert 3 <= len(before) < total
    assert (home / f"run/train/checkpoints/step-{len(before):06d}/complete.json").exists()

    jobs.append(job := submit(home, 1))
    output, _ = job.communicate()
    assert job.returncode == 0, output
    assert steps(home) == list(range(1, total + 1))  # no step twice: it resumed from the checkpoint
    assert (home / "requeues").read_text() == "requeue 4711\n"
    assert json.loads((home / "run/train/manifest.json").read_text())["complete"]
