"""The metrics that Ray exports for Prometheus, and the Grafana dashboard that queries them."""

import asyncio
import json
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.cloudpickle

from ossft_ray.common.types import Problem, Response
from ossft_ray.distributed.cluster_metrics import COUNTERS, GAUGES, ClusterMetrics
from ossft_ray.distributed.rollout_worker import RolloutWorker
from ossft_ray.engines.vllm_policy import Sampling
from ossft_ray.stages.rewrite.stage import rewrite
from ossft_ray.verification import Verdict
from tests.stages import scripted
from tests.stages.scripted import MortalPolicy, ScriptedPolicy, ScriptedWorker, experiment

for module in (scripted, sys.modules[__name__]):
    ray.cloudpickle.register_pickle_by_value(module)
DASHBOARD = json.loads((Path(__file__).parents[2] / "cluster/grafana.json").read_text())
SERIES = re.compile(r"^ray_(?P<name>ossft_\w+)\{(?P<tags>.*)\} (?P<value>\S+)$", re.MULTILINE)

Series = dict[tuple[str, ...], float]


def scrape(run: str, name: str, *tags: str) -> Series:
    """The values of one metric of one run, by these tags, summed over workers."""
    port = ray.nodes()[0]["MetricsExportPort"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found: Series = {}
    for series in SERIES.finditer(text):
        labels = dict(re.findall(r'(\w+)="([^"]*)"', series["tags"]))
        if series["name"] == name and labels["run"] == run:
            key = tuple(labels[tag] for tag in tags)
            found[key] = found.get(key, 0.0) + float(series["value"])
    return found


def await_series(expected: Series, run: str, name: str, *tags: str) -> None:
    """Return when the metric is as expected: in these tests workers report to their node every second."""
    deadline = time.monotonic() + 60
    while (found := scrape(run, name, *tags)) != expected and time.monotonic() < deadline:
        time.sleep(0.3)
    assert found == expected


class HeldPolicy(ScriptedPolicy):
    """Answers once the file `released` exists."""

    def __init__(self, released: Path) -> None:
        self.released = released

    async def sample(self, prompt_ids: list[int], sampling: Sampling, seed: int, request_id: str) -> Response:
        while not self.released.exists():
            await asyncio.sleep(0.05)
        return await super().sample(prompt_ids, sampling, seed, request_id)


class HeldWorker(ScriptedWorker):
    def start_policy(self) -> Any:
        return HeldPolicy(Path(f"{self.experiment.run.output}-released"))


class TimeoutVerifiers:
    """Verifiers that reach their time limit at every response."""

    async def verify(self, *task: str) -> Verdict:
        return Verdict(False, "timeout")


class FailingWorker(ScriptedWorker):
    """Its engines die after a few responses, and every verdict is a timeout."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.verifiers = TimeoutVerifiers()  # type: ignore[assignment]

    def start_policy(self) -> Any:
        return MortalPolicy()

    async def verify(self, problem: Problem, response: str) -> Verdict:
        return await RolloutWorker.verify(self, problem, response)


@pytest.mark.usefixtures("ray_cluster")
def test_counters_of_rewriting_equal_its_manifest(tmp_path: Path) -> None:
    settings = experiment(str(tmp_path / "run"), 40, rewrite={"exhaustive": True}, resources={"num_policies": 2})
    run, manifest = settings.run.output, {}
    rewriting = threading.Thread(target=lambda: manifest.update(rewrite(settings, worker=HeldWorker)), daemon=True)
    rewriting.start()
    try:
        in_flight = 2 * 16 * 8  # two parts of 16 problems with 8 self-alignment responses each
        await_series({("rewrite",): in_flight}, run, "ossft_requests_in_flight", "stage")
    finally:
        Path(f"{run}-released").touch()
        rewriting.join()
    origins = {("rewrite", origin): float(count) for origin, count in manifest["origins"].items() if count}
    assert len(origins) == 3
    await_series(origins, run, "ossft_problems_total", "stage", "origin")
    await_series({(): manifest["generated_tokens"]}, run, "ossft_generated_tokens_total")


@pytest.mark.usefixtures("ray_cluster")
def test_timeouts_and_engine_deaths_are_counted(tmp_path: Path) -> None:
    settings, totals = experiment(str(tmp_path / "run"), 8), {}
    manifest = rewrite(settings, worker=FailingWorker, on_progress=totals.update)
    run = settings.run.output
    assert manifest["verifier_timeouts"] == 8 * 12 and totals["engine_deaths"] > 0
    await_series({("timeout",): manifest["verifier_timeouts"]}, run, "ossft_verdicts_total", "reason")
    await_series({(): totals["engine_deaths"]}, run, "ossft_engine_deaths_total")


@ray.remote(num_cpus=0)
class Trainer:
    """Records metrics like rank 0 of a training run."""

    def __init__(self, run: str) -> None:
        self.metrics = ClusterMetrics(run, "train")

    def step(self, metrics: dict[str, Any]) -> None:
        self.metrics.watch_training(metrics)


@pytest.mark.usefixtures("ray_cluster")
def test_gauges_of_training_last_until_the_next_step(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    trainer = Trainer.remote(run)  # type: ignore[attr-defined]
    figures = {name.removeprefix("ossft_train_"): number / 8 for number, name in enumerate(GAUGES) if "train" in name}
    ray.get(trainer.step.remote({**figures, "loss": 99.0, "self/loss": 1.0}))
    await_series({("train",): 99.0}, run, "ossft_train_loss", "stage")
    ray.get(trainer.step.remote(figures))
    await_series({("train",): figures["loss"]}, run, "ossft_train_loss", "stage")
    time.sleep(3)  # longer than Ray keeps a gauge that is not set again
    for name, value in figures.items():
        await_series({("train",): value}, run, f"ossft_train_{name}", "stage")


WITHOUT_RAY = """
import ray, time
from ossft_ray.distributed import cluster_metrics
cluster_metrics._REFRESH_SECONDS = 0.01
metrics = cluster_metrics.ClusterMetrics("run", "rewrite")
metrics.count("ossft_problems", 0, origin="self")
metrics.count("ossft_problems", origin="self")
read = []
metrics.watch("ossft_requests_in_flight", lambda: read.append(1) or 1)
while len(read) < 3:
    time.sleep(0.01)
metrics.close()
print("Ray runs:", ray.is_initialized())
"""


@pytest.mark.timeout(60)
def test_recording_without_ray_does_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_RAY], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Ray runs: False\n", "")


PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
EXPORTED = {f"ray_{name}_total": {*extra, "run", "stage"} for name, (_, extra) in COUNTERS.items()}
EXPORTED |= {f"ray_{name}": {"run", "stage"} for name in GAUGES}
RAY_LABELS = {"WorkerId", "NodeAddress"}


def queried_metrics(query: str) -> Iterator[tuple[str, set[str]]]:
    """The metrics in a query, each with the labels that its selector and the query's groups name."""
    groups = {label for found in re.findall(r"by \(([^)]*)\)", query) for label in found.split(", ")}
    for name, selector in re.findall(r"(ray_\w+)\{([^}]*)\}", query):
        yield name, groups | set(re.findall(r"(\w+)=~?\"", selector))


@pytest.mark.parametrize("query", QUERIES)
def test_the_dashboard_queries_metrics_and_labels_that_exist(query: str) -> None:
    found = list(queried_metrics(query))
    assert found and len(found) == query.count("ray_"), "every metric is restricted to the chosen runs"
    for name, labels in found:
        assert name in EXPORTED
        assert "run" in labels
        assert labels <= EXPORTED[name] | RAY_LABELS
    assert query.count("(") == query.count(")")
    assert name.endswith("_total") == ("rate(" in query or "increase(" in query)


def test_the_dashboard_shows_every_metric() -> None:
    assert {name for query in QUERIES for name, _ in queried_metrics(query)} == EXPORTED.keys()


def test_the_dashboard_is_complete_for_grafana() -> None:
    assert {"title", "uid", "schemaVersion", "time", "templating"} <= DASHBOARD.keys()
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    source = {"type": "prometheus", "uid": "${datasource}"}
    assert variables["run"]["datasource"] == source
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        position = panel["gridPos"]
        covered = {
            (x, y)
            for x in range(position["x"], position["x"] + position["w"])
            for y in range(position["y"], position["y"] + position["h"])
        }
        assert position["x"] + position["w"] <= 24 and not covered & cells, f"{panel['title']} overlaps another panel"
        cells |= covered
    for panel in PANELS:
        assert panel["type"] in ("timeseries", "stat", "gauge") and panel["title"]
        assert panel["datasource"] == source and all(target["datasource"] == source for target in panel["targets"])
        ref_ids = [target["refId"] for target in panel["targets"]]
        assert len(set(ref_ids)) == len(ref_ids)


def test_any_text_becomes_an_ascii_tag(ray_cluster: None) -> None:
    metrics = ClusterMetrics("läufe/\ud800\n" + "x" * 1000, "rewrite")
    metrics.count("ossft_verdicts", reason="格式错误")  # as is, Ray raises UnicodeEncodeError for it
    metrics.close()
