"""Twenty `kill -9` at seeded random moments: the resumed run ends with the rows of an undisturbed run.

The two runs batch their requests differently, and a processor's sums depend a little on the batch. Rarely, two tokens
are so close that this decides between them. So up to `MAX_RESAMPLED` problems may have another sample, but problems
with the same samples must have the same row.

The victims are the driver, the actor that holds the engine, the engine's processes and the verifiers, with real vLLM,
Ray and Math-Verify. Run it alone: `make faults`.
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
NUM_PROBLEMS = 800
IN_FLIGHT = 24
MAX_NUM_SEQS = 8  # a batch so small that the run outlasts the kills on any machine
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


class Verifiers:
    """The workers forked from the actor's fork server, and the fork server itself, without which they are orphans."""

    def __init__(self) -> None:
        self.seen: set[psutil.Process] = set()

    def __call__(self, driver: int) -> list[psutil.Process]:
        self.seen.update(named("verification.fork_server")(driver))
        return sorted((process for process in self.seen if is_alive(process)), key=lambda process: process.pid)


VICTIMS: dict[str, Callable[[int], list[psutil.Process]]] = {
    "driver": lambda driver: [psutil.Process(driver)],
    "actor": named("MapWorker"),
    "engine": named("VLLM::"),
    "verifier": Verifiers(),
}


def kill_one(kind: str, driver: subprocess.Popen[str], rng: random.Random) -> None:
    """Wait until a victim exists, then for a random time, then send one SIGKILL."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not VICTIMS[kind](driver.pid):
        assert driver.poll() is None, f"the run ended with {driver.returncode} before another {kind} could be killed"
        assert time.monotonic() < deadline, f"no {kind} appeared within {PATIENCE_SECONDS} s"
        time.sleep(0.2)
    time.sleep(rng.uniform(0, 20 if kind == "driver" else 1.5))
    assert driver.poll() is None, f"the run ended with {driver.returncode} before all kills were done"
    for victim in rng.sample(found, 1) if (found := VICTIMS[kind](driver.pid)) else []:
        victim.kill()


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An undisturbed run; it has two policies, larger batches and far more in flight, none of which may matter."""
    config = write_experiment(tmp_path_factory.mktemp("quiet"))
    resources = "resources.num_policies=2", "resources.problems_in_flight=400", "policy.engine.max_num_seqs=256"
    options = [word for setting in resources for word in ("--set", setting)]
    assert start(config, *options).wait() == 0, (config.parent / "output.txt").read_text()
    return load_experiment(config)


def test_twenty_kills_change_no_row(quiet: Any, tmp_path: Path) -> None:
    config = write_experiment(tmp_path)
    rng = random.Random(20)
    kinds = [kind for kind, count in KILLS.items() for _ in range(count)]
    rng.shuffle(kinds)
    began = time.monotonic()
    driver = start(config)
    for kind in kinds:
        kill_one(kind, driver, rng)
        if kind == "driver":
            driver.wait()
            driver = start(config)
    assert driver.wait() == 0, (tmp_path / "output.txt").read_text()
    print(f"{len(kinds)} kills, {time.monotonic() - began:.0f} seconds")

    disturbed = load_experiment(config)
    rows = rows_by_id(disturbed)
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

    manifest = json.loads((tmp_path / "run/rewrite/manifest.json").read_text())
    of_quiet = json.loads(Path(quiet.run.output, "rewrite/manifest.json").read_text())
    same = ["problems", "fingerprint"]
    if not different:
        same += ["origins", "attempts", "generated_tokens", "prompt_tokens", "reasons"]
    assert {key: manifest[key] for key in same} == {key: of_quiet[key] for key in same}
    deadly = sum(count for kind, count in KILLS.items() if kind != "verifier")
    assert 0 < manifest["redone_attempts"] <= deadly * IN_FLIGHT * MAX_WAVE, "at most the requests in flight are redone"
    assert manifest["sessions"] == KILLS["driver"] + 1
    assert of_quiet["redone_attempts"] == 0
