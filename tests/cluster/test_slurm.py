"""cluster/slurm.sh with a stand-in for Slurm: a job at its time limit, when it fails, and at `scancel`.

The stand-ins of `srun` and `ray symmetric-run` run their command, that of `scontrol` records its calls, and that of
`ossft` ends as each test wants.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "cluster" / "slurm.sh"

SRUN = """#!/usr/bin/env bash
echo "srun $*" >>"$CALLS"
while [[ $1 == --* ]]; do shift; done
"$@" & child=$!
trap 'kill -TERM "$child"' TERM # srun passes signals on to its tasks
code=0
wait "$child" || code=$?
exit "$code"
"""
SCONTROL = """#!/usr/bin/env bash
echo "scontrol $*" >>"$CALLS"
if [[ $1 == show ]]; then printf '%s\\n' node1 node2; fi
"""
RAY = """#!/usr/bin/env bash
echo "ray $*" >>"$CALLS"
[[ $RAY_AUTH_MODE == token && -z ${RAY_ADDRESS:-} ]] || exit 70
while [[ $1 != -- ]]; do shift; done
shift
sleep "${SLOW_START:-0}"
"$@"
"""
# The driver: records its arguments, then exits with EXITS, or runs until SIGTERM and exits with AT_TERM.
OSSFT = """#!/usr/bin/env bash
echo "ossft $* at $RAY_ADDRESS" >>"$CALLS"
[[ -n ${EXITS:-} ]] && exit "$EXITS"
if [[ -n ${AT_TERM:-} ]]; then trap 'exit "$AT_TERM"' TERM; else trap '' TERM; fi
echo started >"$STARTED"
for _ in $(seq 50); do sleep 0.1; done
exit 9
"""


@dataclass
class Job:
    folder: Path
    environment: dict[str, str]

    def submit(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(SCRIPT), *arguments],
            env={**self.environment, **environment},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def calls(self, name: str) -> list[str]:
        return [line for line in (self.folder / "calls").read_text().splitlines() if line.startswith(name)]

    @property
    def requeues(self) -> int:
        return len(self.calls("scontrol requeue 4711"))


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A repository with an environment, a token and an experiment, where Slurm would start the script."""
    programs = {"bin/srun": SRUN, "bin/scontrol": SCONTROL, ".venv/bin/ray": RAY, ".venv/bin/ossft": OSSFT}
    for name, text in programs.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / ".venv/bin/activate").write_text(f"PATH={tmp_path}/.venv/bin:$PATH\n")
    (tmp_path / "token").write_text("0123456789abcdef0123456789abcdef")
    (tmp_path / "experiment.toml").touch()
    (tmp_path / "calls").touch()
    (tmp_path / "tmp").mkdir()
    environment = {
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path / "tmp"),
        "CALLS": str(tmp_path / "calls"),
        "STARTED": str(tmp_path / "started"),
        "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"),
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "64",
        "SLURM_SUBMIT_DIR": str(tmp_path),
    }
    return Job(tmp_path, environment)


@pytest.mark.parametrize("code", [0, 1, 2, 130])
def test_a_job_that_ends_before_the_limit_keeps_its_exit_code(job: Job, code: int) -> None:
    ran = job.submit("train", "experiment.toml", "--set", "run.seed=1", EXITS=str(code))
    output, _ = ran.communicate(timeout=60)
    assert (ran.returncode, job.requeues) == (code, 0), output
    assert job.calls("ossft") == [f"ossft train --config {job.folder}/experiment.toml --set run.seed=1 at node1:6379"]
    assert list((job.folder / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    "number, environment, code, requeues",
    [
        (signal.SIGUSR1, {"AT_TERM": "130"}, 130, 1),  # a checkpoint was written
        (signal.SIGUSR1, {"AT_TERM": "15"}, 15, 1),  # rewriting ended by SIGTERM
        (signal.SIGUSR1, {"AT_TERM": "0"}, 0, 0),  # it finished just then
        (signal.SIGUSR1, {"AT_TERM": "2"}, 2, 0),
        (signal.SIGTERM, {"AT_TERM": "130"}, 130, 0),  # scancel: not requeued
        (signal.SIGUSR1, {"AT_TERM": "130", "SLURM_RESTART_COUNT": "49"}, 130, 1),
        (signal.SIGUSR1, {"AT_TERM": "130", "SLURM_RESTART_COUNT": "50"}, 130, 0),
    ],
)
def test_requeueing_at_the_time_limit(
    job: Job, number: int, environment: dict[str, str], code: int, requeues: int
) -> None:
    running = job.submit("run", "experiment.toml", **environment)
    wait_for((job.folder / "started").exists)
    running.send_signal(number)
    output, _ = running.communicate(timeout=60)
    assert (running.returncode, job.requeues) == (code, requeues), output
    assert ("requeued 50 times already" in output) == (environment.get("SLURM_RESTART_COUNT") == "50")


@pytest.mark.thorough
def test_a_job_whose_driver_does_not_end_is_requeued_before_the_limit(job: Job) -> None:
    """At the limit itself Slurm would kill the job and not requeue it."""
    running = job.submit("run", "experiment.toml", OSSFT_GRACE_SECONDS="1")
    wait_for((job.folder / "started").exists)
    running.send_signal(signal.SIGUSR1)
    wait_for(lambda: job.requeues == 1)
    assert running.poll() is None
    running.communicate(timeout=60)


@pytest.mark.thorough
def test_the_limit_requeues_a_job_while_ray_starts(job: Job) -> None:
    """There is no driver to stop yet, so the script stops the job step."""
    running = job.submit("run", "experiment.toml", SLOW_START="2")
    wait_for(lambda: bool(job.calls("ray")))
    running.send_signal(signal.SIGUSR1)
    running.communicate(timeout=60)
    assert job.requeues == 1 and job.calls("ossft") == []


@pytest.mark.parametrize(
    "arguments, environment, error",
    [
        (["train"], {}, "give a stage and an experiment file"),
        (["train", "missing.toml"], {}, "no experiment file"),
        (["train", "experiment.toml"], {"SLURM_JOB_ID": ""}, "not in a Slurm job"),
        (["train", "experiment.toml"], {"SLURM_SUBMIT_DIR": "/"}, "run sbatch from the repository's root"),
        (["train", "experiment.toml"], {"RAY_AUTH_TOKEN_PATH": "/nowhere"}, "no token for Ray"),
    ],
)
def test_bad_input(job: Job, arguments: list[str], environment: dict[str, str], error: str) -> None:
    refused = job.submit(*arguments, **environment)
    output, _ = refused.communicate(timeout=60)
    assert refused.returncode == 2
    assert output.startswith("error: ") and error in output and len(output.splitlines()) == 1
    assert job.calls("srun") == []


def test_sbatch_options() -> None:
    text = SCRIPT.read_text()
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", text, re.MULTILINE))
    assert {"requeue", "exclusive", "nodes", "gpus-per-node"} <= options.keys()
    assert options["ntasks-per-node"] == "1"  # symmetric-run starts one Ray on each node
    assert options["open-mode"] == "append"  # a requeued job continues the same log
    batch_signal = re.fullmatch(r"B:USR1@(\d+)", options["signal"])
    grace = re.search(r"OSSFT_GRACE_SECONDS:-(\d+)", text)
    assert batch_signal and grace
    assert int(grace[1]) + 60 < int(batch_signal[1])  # Slurm may signal a minute late
    # sbatch stops reading at the first command
    first_command = next(index for index, line in enumerate(text.splitlines()) if line and not line.startswith("#"))
    assert max(i for i, line in enumerate(text.splitlines()) if line.startswith("#SBATCH")) < first_command


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited for 30 seconds"
        time.sleep(0.05)
