"""What `ossft check --cluster` and `--probe` print: every figure stands where it belongs."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from ossft_ray.stages.check.budget import Estimate, StageCost
from ossft_ray.stages.check.estimate import Interval
from ossft_ray.stages.check.node_checks import ClusterFindings, Node
from ossft_ray.terminal.check_tables import estimate_lines, nodes_table

GIB = 1 << 30
ESTIMATE = Estimate(
    population=1000,
    sampled=50,
    first_draws={"self": (20, 50, Interval(0.4, 0.28, 0.54))},
    funnel={"self": (40, Interval(800, 700, 900)), "expert": (10, Interval(200, 100, 300))},
    attempts=Interval(4000, 3500, 4500),
    generated_tokens=Interval(1e6, 9e5, 1.1e6),
    prompt_tokens=Interval(2e6, 1.8e6, 2.2e6),
    examples=Interval.exactly(1000),
    too_long=Interval.exactly(0),
    response_tokens=Interval(3e5, 2e5, 4e5),
    steps=Interval.exactly(12),
    stages=[StageCost("rewrite", Interval(3600, 1800, 7200), 8), StageCost("train", Interval(60, 50, 70), 4)],
    missing=["evaluate: no benchmarks"],
    rounds=1,
    seconds=Interval(3660, 1850, 7270),
    hours=Interval(8.5, 4.25, 17),
    device="GPU",
    disk={"checkpoints": 3.0 * GIB, "model": 1.0 * GIB},
    policy_memory=70 * GIB,
    train_memory=40 * GIB,
)  # fmt: skip


def printed(*parts: object) -> str:
    console = Console(file=io.StringIO(), width=200, highlight=False)
    for part in parts:
        console.print(part, soft_wrap=True)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "changes, price, free, words",
    [
        ({}, None, None, "right at the first draw, self: 20 of 50, 40% (28% to 54%)"),
        ({}, None, None, "tokens generated   1,000,000 (900,000 to 1,100,000) in 4,000 (3,500 to 4,500) attempts"),
        ({}, None, None, "1,000 examples, 300,000 (200,000 to 400,000) tokens of responses, 12 steps\n"),
        ({"too_long": Interval(9, 3, 20)}, None, None, "12 steps, 9 (3 to 20) set aside as too long"),
        ({}, None, None, "not in the estimate: evaluate: no benchmarks"),
        ({}, None, None, "peak GPU memory  70.0 GiB of a policy, 40.0 GiB of a training worker"),
        ({"device": "machine"}, None, None, "peak main memory  70.0 GiB of a policy"),
        ({}, None, None, "disk  4.0 GiB: checkpoints 3.0 GiB, model 1.0 GiB"),
        ({}, None, 2 * GIB, "but only 2.0 GiB are free there"),
        ({}, 2.0, None, "cost  17.00 (8.50 to 34.00) at 2 a GPU-hour\n"),
        ({"device": "machine"}, 2.0, None, "at 2 a machine-hour, taking a machine for a GPU: there is none here"),
    ],
)
def test_lines(changes: dict[str, object], price: float | None, free: int | None, words: str) -> None:
    assert words in printed(*estimate_lines(replace(ESTIMATE, **changes), price, free))  # type: ignore[arg-type]


@pytest.mark.parametrize("words", ["cost", "but only", "too long"])
def test_lines_that_have_no_reason(words: str) -> None:
    assert words not in printed(*estimate_lines(ESTIMATE, None, 5 * GIB))


@pytest.mark.parametrize(
    "row, cells",
    [
        ("rewrite", ["1 h 0 min", "30 min 0 s to 2 h 0 min", "8", "8", "4 to 16"]),
        ("train", ["1 min 0 s", "50 s to 1 min 10 s", "4", "0.0667", "0.0556 to 0.0778"]),
        ("all", ["1 h 1 min", "30 min 50 s to 2 h 1 min", "8.5", "4.25 to 17"]),
        ("the expert's (expert)", ["10", "20%", "200 (100 to 300)"]),
    ],
)
def test_rows(row: str, cells: list[str]) -> None:
    lines = [line for line in printed(*estimate_lines(ESTIMATE, None)).splitlines() if line.startswith(row)]
    assert [" ".join(line.removeprefix(row).split()) for line in lines] == [" ".join(cells)]


def test_a_line_a_node() -> None:
    node = Node("host", "10.0.0.1", {}, 8, 2, [], None, ["H100", "H100"], None, None, None)
    node = replace(node, tmp_free=GIB, ray_tmp_free=2 * GIB, shm_bytes=3 * GIB, clock_offset_seconds=-0.25)
    nodes = [node, replace(node, host="other", output_free=4 * GIB, torch_gpus=["L4"], policy_refusal="gone")]
    lines = [" ".join(line.split()) for line in printed(nodes_table(ClusterFindings(nodes, [], []))).splitlines()[1:]]
    assert lines == [
        "host (10.0.0.1) 2 H100 8 - 1.0 GiB 2.0 GiB 3.0 GiB -0.25 s readable",
        "other (10.0.0.1) 1 L4 (Ray: 2) 8 4.0 GiB 1.0 GiB 2.0 GiB 3.0 GiB -0.25 s NOT readable",
    ]
