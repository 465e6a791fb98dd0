"""The rules for a sound node: each fault becomes one line."""

from dataclasses import replace
from typing import Any

import pytest

from ossft_ray.engines.gpus import DriverGpus, TorchGpus
from ossft_ray.stages.check.node_checks import NodeReport, find_faults

GIB = 1 << 30
VERSIONS = {"python": "3.11.9", "torch": "2.13.0"}
SOUND = NodeReport(
    name="worker-1 (10.0.0.2)",
    versions=VERSIONS,
    ray_cpus=8,
    ray_gpus=2,
    nvidia=DriverGpus(["H100", "H100"], "570.1"),
    torch=TorchGpus(["H100", "H100"], "CUDA 12.9", None),
    output_free=100 * GIB,
    tmp_free=100 * GIB,
    ray_tmp_free=100 * GIB,
    ray_tmp_share=0.5,
    shm_bytes=64 * GIB,
    object_store_bytes=30 * GIB,
    policy_refusal=None,
    policy_digest="digest",
)


def faults_of(**changes: Any) -> list[str]:
    return find_faults([replace(SOUND, **changes)], VERSIONS, "digest")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ray_gpus": 0, "nvidia": DriverGpus([], None), "torch": TorchGpus([], None, None)},
        {"output_free": None},
    ],
    ids=["sound", "without GPUs", "an object store"],
)
def test_a_sound_node_has_no_problem(changes: dict[str, Any]) -> None:
    assert faults_of(**changes) == []


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"versions": VERSIONS | {"torch": "2.12.0"}}, ["torch 2.12.0 (driver: 2.13.0)", "same environment"]),
        ({"versions": {"python": "3.11.9"}}, ["torch missing (driver: 2.13.0)"]),
        ({"versions": VERSIONS | {"vllm": "1"}}, ["vllm 1 (driver: missing)"]),
        ({"torch": TorchGpus([], "CUDA 12.9", "driver too old")}, ["driver too old", "CUDA 12.9", "570.1"]),
        ({"torch": TorchGpus([], None, None)}, ["torch is a CPU-only build", "BACKEND=gpu"]),
        ({"torch": TorchGpus(["H100"], "CUDA 12.9", None)}, ["Ray counts 2 GPUs and torch sees 1", "--num-gpus"]),
        ({"ray_gpus": 1}, ["torch sees 2 GPUs and Ray counts 1", "idle"]),
        ({"installation_faults": ["no C compiler: install gcc"]}, ["no C compiler: install gcc"]),
        ({"output_free": GIB // 2}, ["only 536.9 MB is free for the run's output"]),
        ({"tmp_free": 0}, ["only 0 bytes is free for temporary files"]),
        ({"ray_tmp_share": 0.04}, ["4% of the disk", "--temp-dir"]),
        ({"shm_bytes": 64 << 20}, ["/dev/shm has 67.1 MB", "--shm-size"]),
        ({"shm_bytes": 20 * GIB}, ["/dev/shm has 21.5 GB", "32.2 GB", "--object-store-memory"]),
        ({"policy_refusal": "[policy] model: it is gated"}, ["[policy] model: it is gated"]),
        ({"policy_digest": "other"}, ["files differ from the driver's"]),
    ],
)
def test_each_fault_is_one_line_that_names_the_node(changes: dict[str, Any], words: list[str]) -> None:
    (problem,) = faults_of(**changes)
    assert problem.startswith("worker-1 (10.0.0.2): ")
    assert [word for word in words if word not in problem] == []
    assert "\n" not in problem


def test_faults_of_all_nodes_are_listed() -> None:
    nodes = [
        replace(SOUND, name="a", tmp_free=0),
        SOUND,
        replace(SOUND, name="b", shm_bytes=0, ray_gpus=1),
    ]
    found = find_faults(nodes, VERSIONS, "digest")
    assert [problem.split(":")[0] for problem in found] == ["a", "b", "b"]
