"""Twenty `kill -9` at seeded random moments: the resumed run ends with the rows of an undisturbed run.

The two runs batch their requests differently, and a processor's sums depend a little on the batch. Rarely, two tokens
are so close that this decides between them. So up to `MAX_RESAMPLED` problems may have another sample, but problems
with the same samples must have the same row.

The victims are the driver, the actor that holds the engine, the engine's processes and the verifiers, with real vLLM,
Ray and Math-Verify. On a fast machine a run may end before all kills; the rest hit another run of the same
problems. Run it alone: `make faults`.
"""

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ossft_ray.config import load_experiment
from ossft_ray.playground.arithmetic import training_problems
from tests.stages.scripted import rows_by_id

pytestmark = [pytest.mark.faults, pytest.mark.timeout(2400)]
NUM_PROBLEMS = 400
IN_FLIGHT = 24
MAX_NUM_SEQS = 8  # small batches make a run last longer
MAX_WAVE = 4
KILLS = {"driver": 3, "actor": 2, "engine": 3, "verifier": 12}
MAX_RESAMPLED = 3
PATIENCE_SECONDS = 400  # loading an engine took over two minutes on two busy cores
OSSFT = str(Path(sys.executable).with_name("ossft"))


def write_experiment(folder: Path) -> Path:
    rows = [json.dumps(row) for row in training_problems(NUM_PROBLEMS, seed=11)]
    (folder / "problems.jsonl").write_text("\n".join(rows))
    config = folder / "experiment.toml"
    config.write_text(f"""
[run]
output = "{folder}/run"
[policy]
model = "playground"
dtype = "float32"  # sums that depend on the batch decide less often between two tokens
engine = {{ max_num_seqs = {MAX_NUM_SEQS} }}
[data]
path = "{folder}/problems.jsonl"
columns = {{ question = "question", expert_solution = "expert_solution" }}
[rewrite]
keep_attempts = true
[rewrite.self_alignment]
max_tokens = 96
[rewrite.guided_alignment]
max_tokens = 96
[resources]
problems_in_flight = {IN_FLIGHT}
""")
    return config


def start(config: Path, *options: str) -> subprocess.Popen[str]:
    with (config.parent / "output.txt").open("a") as output:
        command = [OSSFT, "rewrite", "--config", str(config), *options]
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, text=True)


def below(pid: int) -> Iterator[psutil.Process]:
    try:
        yield from psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return


def named(*words: str) -> Callable[[int], list[psutil.Process]]:
    def find(driver: int) -> list[psutil.Process]:
        found = []
        for process in below(driver):
            try:
                line = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if any(word in line for word in words) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        return found

    return find


def is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class Seen:
    """Processes that are or were below the driver: without their parent, they are orphans that still run."""

    def __init__(self, *words: str) -> None:
        self._find, self._seen = named(*words), set[psutil.Process]()

    def __call__(self, driver: int) -> list[psutil.Process]:
        self._seen.update(self._find(driver))
        return self.alive()

    def alive(self) -> list[psutil.Process]:
        return sorted(filter(is_alive, self._seen), key=lambda process: process.pid)


VICTIMS: dict[str, Callable[[int], list[psutil.Process]]] = {
    "driver": lambda driver: [psutil.Process(driver)],
    "actor": named("MapWorker"),
    "engine": Seen("VLLM::"),
    "verifier": Seen("verification.fork_server"),  # the workers, and the fork server itself
}


def kill_one(kind: str, driver: subprocess.Popen[str], rng: random.Random) -> bool:
    """Wait until a victim exists, then for a random time, then send one SIGKILL; False if the run ended before."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not VICTIMS[kind](driver.pid):
        if driver.poll() is not None:
            return False
        assert time.monotonic() < deadline, f"no {kind} appeared within {PATIENCE_SECONDS} s"
        time.sleep(0.2)
    time.sleep(rng.uniform(0, 20 if kind == "driver" else 1.5))
    if driver.poll() is not None or not (found := VICTIMS[kind](driver.pid)):
        return False
    victim = rng.choice(found)
    print(f"kill {kind} {victim.pid}", flush=True)
    victim.kill()
    return True


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An undisturbed run; it has two policies, larger batches and far more in flight, none of which may matter."""
    config = write_experiment(tmp_path_factory.mktemp("quiet"))
    resources = "resources.num_policies=2", "resources.problems_in_flight=400", "policy.engine.max_num_seqs=256"
    options = [word for setting in resources for word in ("--set", setting)]
    assert start(config, *options).wait() == 0, (config.parent / "output.txt").read_text()
    return load_experiment(config)


def disturb(config: Path, kinds: list[str], rng: random.Random) -> list[str]:
    """Run to the end, with these kills for as long as it lasts; return those that were carried out."""
    done: list[str] = []
    driver = start(config)
    for kind in kinds:
        while not kill_one(kind, driver, rng):
            if driver.poll() is not None:
                assert driver.returncode == 0, (config.parent / "output.txt").read_text()
                return done
        done.append(kind)
        if kind == "driver":
            driver.wait()
            expect_no_orphans()
            driver = start(config)
    assert driver.wait() == 0, (config.parent / "output.txt").read_text()
    return done


def expect_no_orphans() -> None:
    """Nothing that belongs to a killed driver may stay, least of all an engine with its GPU memory."""
    deadline = time.monotonic() + 30
    while orphans := [process for seen in VICTIMS.values() if isinstance(seen, Seen) for process in seen.alive()]:
        assert time.monotonic() < deadline, orphans
        time.sleep(0.5)


def test_twenty_kills_change_no_row(quiet: Any, tmp_path: Path) -> None:
    rng = random.Random(20)
    kinds = [kind for kind, count in KILLS.items() for _ in range(count)]
    rng.shuffle(kinds)
    began = time.monotonic()
    manifests: list[dict[str, Any]] = []
    while kinds:
        folder = tmp_path / str(len(manifests))
        folder.mkdir()
        done = disturb(write_experiment(folder), kinds, rng)
        assert done, "the run ended before it could be disturbed"
        manifests.append(compare(quiet, folder, done))
        kinds = kinds[len(done) :]
    assert sum(manifest["redone_attempts"] for manifest in manifests) > 0
    assert sum(manifest["sessions"] for manifest in manifests) > len(manifests), "runs were resumed"
    print(f"{sum(KILLS.values())} kills in {len(manifests)} runs, {time.monotonic() - began:.0f} seconds")


def compare(quiet: Any, folder: Path, kills: list[str]) -> dict[str, Any]:
    """Compare a disturbed run's rows and counts with the undisturbed one's; return its manifest."""
    rows = rows_by_id(load_experiment(folder / "experiment.toml"))
    assert sorted(rows) == sorted(row["id"] for row in training_problems(NUM_PROBLEMS, seed=11)), (
        "no problem is missing"
    )
    assert {len(of_problem) for of_problem in rows.values()} == {1}, "no problem has two rows"
    quiet_rows = rows_by_id(quiet)
    different = [problem_id for problem_id in rows if rows[problem_id] != quiet_rows[problem_id]]
    for problem_id in different:
        (row,), (quiet_row,) = rows[problem_id], quiet_rows[problem_id]
        pairs = zip(row["attempts"], quiet_row["attempts"], strict=False)
        first = next((pair for pair in pairs if pair[0] != pair[1]), None)
        assert first is not None and first[0]["response"] != first[1]["response"], (problem_id, row, quiet_row)
    assert len(different) <= MAX_RESAMPLED, different
    print(f"{len(different)} problems with another sample")

    manifest: dict[str, Any] = json.loads((folder / "run/rewrite/manifest.json").read_text())
    of_quiet = json.loads(Path(quiet.run.output, "rewrite/manifest.json").read_text())
    same = ["problems", "fingerprint"]
    if not different:
        same += ["origins", "attempts", "generated_tokens", "prompt_tokens", "reasons"]
    assert {key: manifest[key] for key in same} == {key: of_quiet[key] for key in same}
    deadly = sum(kind != "verifier" for kind in kills)
    assert manifest["redone_attempts"] <= deadly * IN_FLIGHT * MAX_WAVE, "at most the requests in flight are redone"
    # a driver that is killed before it holds the run has begun no session
    assert manifest["sessions"] <= kills.count("driver") + 1
    assert of_quiet["redone_attempts"] == 0
    return manifest
