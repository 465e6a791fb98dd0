"""The output of `ossft check --cluster` and `--probe`: every figure in its place."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from ossft_ray.config import Train, resolve
from ossft_ray.data.screening import InputCounts
from ossft_ray.engines.gpus import DriverGpus, TorchGpus
from ossft_ray.stages.check.forecast import Forecast, Measurement, RunPlan, StageForecast, Timing
from ossft_ray.stages.check.node_checks import ClusterReport, NodeReport
from ossft_ray.stages.check.stage import Findings
from ossft_ray.terminal.check_tables import cluster_lines, findings_lines, forecast_lines

GB = 10**9
FORECAST = Forecast(
    measured=Measurement(
        fates={"self": 40, "guided": 0, "expert": 10, "dropped": 0},
        attempts=200,
        generated_tokens=50_000,
        prompt_tokens=100_000,
        examples=50,
        too_long=0,
        ingest_seconds=1.0,
        timings={"rewrite": Timing(1.0, 1.0, 1.0)},
        rows_bytes=1,
        checkpoint_bytes=1,
        model_bytes=1,
        policy_memory=70 * GB,
        trainer_memory=40 * GB,
    ),
    plan=RunPlan(
        num_problems=1000,
        num_policies=2,
        problems_in_flight=1280,
        policy_devices=8,
        train_devices=4,
        device="GPU",
        train=Train(),
        checkpoints_at_once=3,
        evaluated_models=2,
        samples_per_model=100,
        rounds=1,
        free_bytes=5 * GB,
    ),
    funnel={"self": (0.67, 0.89), "expert": (0.11, 0.33)},
    scale=20.0,
    examples=1000,
    steps=12,
    stages=[StageForecast("rewrite", 3600.0, 8), StageForecast("train", 90.0, 4)],
    disk={"checkpoints": 3 * GB, "model": GB},
)


def changed(**changes: object) -> Forecast:
    """The forecast with changes to its fields, its plan's or its measurement's."""
    parts = {}
    for name in ("plan", "measured"):
        part = getattr(FORECAST, name)
        parts[name] = replace(part, **{key: changes.pop(key) for key in list(changes) if hasattr(part, key)})
    return replace(FORECAST, **parts, **changes)  # type: ignore[arg-type]


def printed(*parts: object) -> str:
    console = Console(file=io.StringIO(), width=200, highlight=False)
    for part in parts:
        console.print(part, soft_wrap=True, markup=False)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "stages, url, line",
    [
        (["self", "guided"], "", None),
        (["self", "external"], "", "teacher in an engine of each policy's worker, up to 4 samples a problem"),
        (["self", "external"], "http://host:1/v1", "teacher behind http://host:1/v1, up to 4 samples a problem"),
    ],
)
def test_a_check_names_the_other_model(stages: list[str], url: str, line: str | None) -> None:
    settings = {"stages": stages, "external_alignment": {"model": "teacher", "url": url}}
    experiment = resolve({"policy": {"model": "playground"}, "data": {"path": "x.jsonl"}, "rewrite": settings})
    found = Findings(InputCounts(), {}, 2048, "<|im_end|>", "no thinking", 1.0)
    lines = [each for each in findings_lines(found, experiment) if each.startswith("external:")]
    assert lines == ([f"external:          {line}"] if line else [])


@pytest.mark.parametrize(
    "changes, price, words",
    [
        ({}, None, "the probe took 50 of 1,000 problems, drawn at random\n"),
        ({}, None, "rewriting  1,000,000 tokens in 4,000 attempts, 2,000,000 tokens of prompts\n"),
        ({}, None, "training   1,000 examples in 12 steps\n"),
        ({"too_long": 3}, None, "in 12 steps, 60 set aside as too long\n"),
        ({}, None, "not in this forecast: score, evaluate\n"),
        ({}, None, "A probe with fewer than 2,560 problems does\nnot fill the policies' batches"),
        ({}, None, "peak GPU memory  70.0 GB of a policy, 40.0 GB of a training worker\n"),
        ({"device": "machine"}, None, "peak main memory  70.0 GB of a policy, "),
        ({"trainer_memory": 0}, None, "peak GPU memory  70.0 GB of a policy\n"),
        ({}, None, "disk  4.0 GB: checkpoints 3.0 GB, model 1.0 GB; without logs"),
        ({}, None, "      5.0 GB are free\n"),
        ({"free_bytes": 2 * GB}, None, "      2.0 GB are free, which is NOT enough: free some"),
        ({}, 2.0, "cost  16.20 at 2 for each GPU-hour\n"),
        ({"rounds": 3}, 2.0, "cost  48.60 at 2 for each GPU-hour\n"),
        ({"device": "machine"}, 2.0, "at 2 for each machine-hour, with each machine counted as a GPU\n"),
    ],
)
def test_forecast_lines(changes: dict[str, object], price: float | None, words: str) -> None:
    assert words in printed(*forecast_lines(changed(**changes), price))


@pytest.mark.parametrize("words", ["cost", "NOT enough", "too long"])
def test_lines_without_a_reason_are_left_out(words: str) -> None:
    assert words not in printed(*forecast_lines(FORECAST))


def test_an_object_store_has_no_free_space_to_show() -> None:
    assert "free" not in printed(*forecast_lines(changed(free_bytes=None)))


@pytest.mark.parametrize(
    "row, cells",
    [
        ("rewrite ", "1 h 0 min 8 8"),
        ("train ", "1 min 30 s 4 0.1"),
        ("all ", "1 h 1 min 8.1"),
        ("the expert's (expert)", "10 20% 11% to 33% 200"),
    ],
)
def test_rows(row: str, cells: str) -> None:
    lines = [line for line in printed(*forecast_lines(FORECAST)).splitlines() if line.startswith(row)]
    assert [" ".join(line.removeprefix(row).split()) for line in lines] == [cells]


NODE = NodeReport(
    name="host (10.0.0.1)",
    versions={},
    ray_cpus=8,
    ray_gpus=2,
    nvidia=DriverGpus([], None),
    torch=TorchGpus(["H100", "H100"], None, None),
    tmp_free=GB,
    ray_tmp_free=2 * GB,
    shm_bytes=3 * GB,
)


def test_a_row_for_each_node() -> None:
    other = replace(
        NODE,
        name="other (10.0.0.2)",
        output_free=4 * GB,
        torch=TorchGpus(["L4"], None, None),
        policy_refusal="[policy] model: gated",
    )
    lines = printed(*cluster_lines(ClusterReport([NODE, other], [], "all-reduce: fast"))).splitlines()[2:]
    assert [" ".join(line.split()) for line in lines] == [
        "host (10.0.0.1) 2 H100 8 - 1.0 GB 2.0 GB 3.0 GB readable",
        "other (10.0.0.2) 1 L4 (Ray: 2) 8 4.0 GB 1.0 GB 2.0 GB 3.0 GB NOT readable",
        "all-reduce: fast",
        "the cluster is sound",
    ]


def test_problems_are_printed_as_they_are() -> None:
    lines = printed(*cluster_lines(ClusterReport([NODE], ["host: [policy] model: gated"], None))).splitlines()
    assert lines[-1] == "problem: host: [policy] model: gated"
