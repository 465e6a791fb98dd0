"""jobs/*.sh with a real Ray head on this machine that requires a token."""

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from ossft_ray.playground.arithmetic import training_problems

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]
NUM_PROBLEMS = 12
EXPERIMENT = """\
[run]
output = "{folder}/run"

[policy]
model = "playground"

[data]
path = "{folder}/problems.jsonl"
columns = {{ question = "question", expert_solution = "expert_solution" }}

[rewrite]
self_alignment = {{ num_samples = 2, max_tokens = 64 }}
guided_alignment = {{ num_samples = 2, max_tokens = 64 }}

[train]
global_batch_size = 8
max_length = 512
precision = "fp32"
"""


@dataclass(frozen=True)
class Head:
    address: str
    environment: dict[str, str]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A head with its own folder, ports and token, even if another Ray runs here; it is ended by process id."""
    # Ray's socket paths, of at most 107 bytes, do not fit below pytest's own folders
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        token = Path(folder, "token")
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "HF_HUB_OFFLINE": "1",
        }
        dashboard, client = free_port(), free_port()
        command = ["ray", "start", "--head", "--block", "--port=0", "--num-cpus=4", f"--temp-dir={folder}"]
        command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--dashboard-agent-listen-port=0"]
        command += [f"--ray-client-server-port={client}", f"--object-store-memory={200 * 2**20}"]
        process = start(command, environment, Path(folder, "head.log"))
        try:
            yield Head(f"http://127.0.0.1:{dashboard}", environment)
        finally:
            end(process)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("jobs")
    rows = training_problems(NUM_PROBLEMS)
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = folder / "experiment.toml"
    config.write_text(EXPERIMENT.format(folder=folder))
    return config


@pytest.mark.timeout(600)
def test_rewrite_then_train(head: Head, config: Path) -> None:
    rewritten = submit(head, "rewrite", config)
    assert rewritten.returncode == 0, rewritten.stdout + rewritten.stderr
    assert "Running entrypoint for job" in rewritten.stdout and f"{NUM_PROBLEMS} problems" in rewritten.stdout
    manifest = read_manifest(config, "rewrite")
    assert manifest["complete"] and manifest["problems"] == NUM_PROBLEMS == sum(manifest["origins"].values())

    trained = submit(head, "train", config, "--submission-id", "train-1")
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert "job train-1 on" in trained.stdout
    manifest = read_manifest(config, "train")
    assert manifest["complete"] and manifest["steps"] == 2
    assert list((config.parent / "run/train/model").glob("*.safetensors"))


@pytest.mark.parametrize(
    "arguments, environment, error",
    [
        # refused before anything is submitted
        (["--set", "rewrite.stage=1"], {}, "unknown key 'rewrite.stage'; did you mean 'stages'?"),
        ([], {"RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef"}, "Invalid authentication token"),
        ([], {"RAY_API_SERVER_ADDRESS": "http://127.0.0.1:9"}, "Failed to connect to Ray"),
        (
            ["--ssh", "anybody@no-such-host.invalid"],
            {},
            "`ssh anybody@no-such-host.invalid` must work without a password",
        ),
        # refused by the job, whose exit code is passed on
        (["--set", "run.output=runs/relative"], {}, "'runs/relative' is relative, and this is a submitted job"),
    ],
    ids=["config", "token", "address", "ssh", "relative output"],
)
@pytest.mark.timeout(120)
def test_bad_input(head: Head, config: Path, arguments: list[str], environment: dict[str, str], error: str) -> None:
    refused = submit(head, "rewrite", config, *arguments, **environment)
    errors = [line for line in (refused.stdout + refused.stderr).splitlines() if line.startswith("error: ")]
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert len(errors) == 1 and error in errors[0]
    assert "Traceback" not in refused.stdout + refused.stderr


def submit(head: Head, stage: str, config: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Run a script of jobs/ as a user would, from an unrelated folder."""
    return subprocess.run(
        [ROOT / f"jobs/{stage}.sh", config, *arguments],
        env={**head.environment, "RAY_API_SERVER_ADDRESS": head.address, **environment},
        cwd="/",
        capture_output=True,
        text=True,
    )


def read_manifest(config: Path, stage: str) -> dict:
    return json.loads((config.parent / "run" / stage / "manifest.json").read_text())


def start(command: list[str], environment: dict[str, str], log: Path, seconds: float = 90.0) -> subprocess.Popen:
    """Start Ray and wait until it runs; on a busy machine it may give up, and is then started once more."""
    for _ in range(2):
        with log.open("w") as output:
            process = subprocess.Popen(
                command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        deadline = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < deadline:
            if "Ray runtime started" in log.read_text():
                return process
            time.sleep(0.5)
        end(process)
    raise RuntimeError(f"no Ray head started:\n{log.read_text()}")


def end(process: subprocess.Popen) -> None:
    """End `ray start --block` and its descendants. `ray stop` would end every Ray on this machine."""
    started = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()  # psutil checks that the id is still the same process


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
