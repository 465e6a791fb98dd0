"""The whole job in an object store: killed in training, resumed, shown, exported, and free of secrets.

Each command runs in its own process with its own Ray, as for a user.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
from pyarrow import fs

from ossft_ray.common.playground_paths import POLICY_FOLDER
from ossft_ray.common.storage import Folder
from ossft_ray.common.uris import join
from ossft_ray.playground.arithmetic import training_problems
from tests.s3 import Store, credentials, serve

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

OSSFT = str(Path(sys.executable).with_name("ossft"))
NUM_PROBLEMS, NUM_STEPS = 8, 12
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "pl4nted-aws-s3cret",
    "HF_TOKEN": "hf_pl4ntedHubToken",
    "WANDB_API_KEY": "pl4nted-wandb-key-0123456789",
}
OPTIONS = """
    policy.model=playground
    data.columns.question=question data.columns.expert_solution=expert_solution
    rewrite.self_alignment.max_tokens=96 rewrite.self_alignment.num_samples=4
    rewrite.guided_alignment.max_tokens=96 rewrite.guided_alignment.num_samples=2
    train.global_batch_size=4 train.epochs=6 train.precision=fp32 train.max_length=512 train.checkpoint_every=1
    evaluate.benchmarks=["playground/level1"] evaluate.num_samples=1 evaluate.max_tokens=64 evaluate.cache=
"""


@dataclass
class Job:
    """A run in a bucket, and the output of the commands on it."""

    store: Store
    here: Path  # working directory
    ray: Path
    outputs: list[Path] = field(default_factory=list)

    @property
    def uri(self) -> str:
        return self.store.uri("team/run")

    @property
    def folder(self) -> Folder:
        return Folder.at(self.uri)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        environment = os.environ | SECRETS | {"OSSFT_CACHE": str(self.here / "cache"), "RAY_TMPDIR": str(self.ray)}
        environment.pop("RAY_ADDRESS", None)
        self.outputs.append(self.here / f"output-{len(self.outputs)}.txt")
        with self.outputs[-1].open("wb") as output:
            return subprocess.Popen(
                [OSSFT, *arguments], env=environment, cwd=self.here, stdout=output, stderr=subprocess.STDOUT
            )

    def ossft(self, *arguments: str) -> str:
        """Run a command, which must succeed; returns its output."""
        process = self.start(*arguments)
        try:
            code = process.wait(timeout=400)
        finally:
            process.kill()
        assert code == 0, self.outputs[-1].read_text()
        return self.outputs[-1].read_text()

    def settings(self) -> list[str]:
        pairs = [*OPTIONS.split(), f"run.output={self.uri}", f"data.path={self.store.uri('team/problems.jsonl')}"]
        return [word for pair in pairs for word in ("--set", pair)]

    def contents(self) -> dict[str, bytes]:
        """All files in the bucket by name."""
        found = self.folder.filesystem.get_file_info(fs.FileSelector("bucket", recursive=True))
        files = [info.path for info in found if info.type == fs.FileType.File]
        return {path: self.folder.filesystem.open_input_stream(path).read() for path in files}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """A run that has not started, in a bucket with its problems."""
    with credentials(), serve() as store:
        ray = Path(tempfile.mkdtemp(prefix="r"))  # short, because socket paths are limited
        job = Job(store, tmp_path_factory.mktemp("here"), ray)
        rows = [json.dumps(row) for row in training_problems(NUM_PROBLEMS, seed=3)]
        Folder.at(store.uri("team")).write_bytes("problems.jsonl", "\n".join(rows).encode())
        yield job
        shutil.rmtree(ray, ignore_errors=True)


@pytest.fixture(scope="module")
def killed(job: Job) -> list[dict]:
    """The metrics in the store after the driver was killed in training, after two checkpoints."""
    process = job.start("run", *job.settings())
    checkpoint = job.folder / "train" / "checkpoints" / "step-000002"
    deadline = time.monotonic() + 300
    while not checkpoint.exists("complete.json"):
        assert process.poll() is None, job.outputs[-1].read_text()
        assert time.monotonic() < deadline, job.outputs[-1].read_text()
        time.sleep(0.1)
    below = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    psutil.wait_procs([each for each in below if "RayTrainWorker" in each.name()], timeout=60)
    assert not (job.folder / "train").exists("manifest.json"), "training was killed before its end"
    return steps(job)


@pytest.fixture(scope="module")
def lost(job: Job, killed: list[dict]) -> tuple[str, pa.Table]:
    """A part of the rewritten rows that is missing when the killed run is resumed, and what it held."""
    rewrite = job.folder / "rewrite"
    (part, *_) = rewrite.names("part-*.parquet")
    rows = rewrite.read_table(part)
    rewrite.delete_file(part)
    rewrite.delete_file("manifest.json")
    return part, rows


@pytest.fixture(scope="module")
def finished(job: Job, lost: tuple[str, pa.Table]) -> Job:
    job.ossft("run", *job.settings())
    return job


def steps(job: Job) -> list[dict]:
    return [json.loads(line) for line in (job.folder / "train").read_bytes("metrics.jsonl").splitlines()]


def test_training_resumes_from_the_checkpoint(finished: Job, killed: list[dict]) -> None:
    assert len(killed) >= 2
    assert [step["step"] for step in steps(finished)] == list(range(1, NUM_STEPS + 1))
    assert steps(finished)[:2] == killed[:2], "even the seconds are equal: these steps were not repeated"
    checkpoints = (finished.folder / "train" / "checkpoints").filesystem.get_file_info(
        fs.FileSelector((finished.folder / "train" / "checkpoints").path)
    )
    names = sorted(info.base_name for info in checkpoints if info.base_name.startswith("step-"))
    assert names == [f"step-{NUM_STEPS - 1:06d}", f"step-{NUM_STEPS:06d}"]


def test_every_stage_is_complete(finished: Job) -> None:
    manifest = (finished.folder / "rewrite").read_json("manifest.json")
    assert (manifest["problems"], sum(manifest["origins"].values())) == (NUM_PROBLEMS, NUM_PROBLEMS)
    assert (finished.folder / "score").read_json("manifest.json")["complete"]
    scores = (finished.folder / "evaluate").read_json("scores.json")
    assert {model: list(found) for model, found in scores.items()} == {
        "base": ["playground-level1"],
        "trained": ["playground-level1"],
    }
    assert b"playground-level1" in finished.folder.read_bytes("report.html")
    assert finished.folder.read_json("config.json")["experiment"]["run"]["output"] == finished.uri
    assert not list(finished.here.glob("*:*")), "no local folder is named like the URI"


def test_the_trained_model_loads_in_transformers(finished: Job, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = finished.folder / "train" / "model"
    fs.copy_files(model.path, str(tmp_path), source_filesystem=model.filesystem)
    trained, base = (AutoModelForCausalLM.from_pretrained(path) for path in (tmp_path, POLICY_FOLDER))
    assert any((a != b).any() for a, b in zip(trained.parameters(), base.parameters(), strict=True))
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template


def test_the_run_can_be_shown_and_exported(finished: Job) -> None:
    assert training_problems(1, seed=3)[0]["question"] in finished.ossft("show", finished.uri, "-n", "8")
    target = finished.store.uri("team/export")
    assert f"{NUM_PROBLEMS} examples" in finished.ossft("export", finished.uri, target, "--format", "trl")
    assert "README.md" in set(Folder.at(target).names())
    page = join(finished.store.uri("team"), "page.html")
    assert f"report: {page}" in finished.ossft("report", finished.uri, "--output", page)
    assert Folder.at(finished.store.uri("team")).exists("page.html")


def test_a_missing_part_is_rewritten(finished: Job, lost: tuple[str, pa.Table]) -> None:
    part, rows = lost
    assert (finished.folder / "rewrite").read_table(part) == rows


def test_a_second_run_changes_nothing(finished: Job) -> None:
    results = "manifest.json", "metrics.jsonl", "scores.json", ".parquet", ".safetensors"
    before = {name: content for name, content in finished.contents().items() if name.endswith(results)}
    assert len(before) > 8
    finished.ossft("run", *finished.settings())
    assert before.items() <= finished.contents().items()


def test_no_secret_is_in_the_run_the_outputs_or_the_logs(finished: Job) -> None:
    contents = finished.contents()
    assert len(contents) > 20
    logs = {str(path): path.read_bytes() for path in finished.ray.rglob("*.log") if path.is_file()}
    logs |= {str(path): path.read_bytes() for path in finished.ray.rglob("*.err") if path.is_file()}
    assert logs, "Ray's logs are searched too"
    outputs = {path.name: path.read_bytes() for path in finished.outputs}
    for secret in SECRETS.values():
        holders = [name for name, content in (contents | logs | outputs).items() if secret.encode() in content]
        assert holders == [], secret
