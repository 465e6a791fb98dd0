"""The plan for every kind of policy: how many actors, on which GPUs, with how much in flight."""

from pathlib import Path
from typing import Any

import pytest
import ray

from ossft_ray.common.errors import InputError
from ossft_ray.config import Experiment, resolve
from ossft_ray.distributed.placement import Node, Placement, settle
from ossft_ray.distributed.rollout_pool import pool_arguments
from ossft_ray.distributed.session import engine_gpus, place
from ossft_ray.engines.in_flight import problems_in_flight

HEAD = Node(0, 0)
EIGHT = Node(8, 64)
SEVEN = Node(7, 64)
TWO = Node(2, 16)
LAPTOP = Node(0, 2)


def experiment(resources: dict[str, Any] | None = None, engine: dict[str, Any] | None = None) -> Experiment:
    return resolve(
        {
            "policy": {"model": "playground", "engine": engine or {}},
            "data": {"path": "p.jsonl"},
            "resources": resources or {},
        }
    )


@pytest.fixture(autouse=True)
def eight_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    dead = {"Alive": False, "Resources": {"GPU": 8.0, "CPU": 64.0}}
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"GPU": 8.0, "CPU": 64.0}}, dead])


def settled(nodes: list[Node], resources: dict[str, Any], engine: dict[str, Any], num_verifiers: int = 2) -> Placement:
    settings = experiment(resources, engine)
    return settle(settings.resources, nodes, engine_gpus(settings.policy.engine), num_verifiers)


TENSOR_2 = {"tensor_parallel_size": 2}


@pytest.mark.parametrize(
    "nodes, resources, engine, policies, workers",
    [
        ([HEAD, EIGHT, EIGHT], {}, {}, 16, 16),
        ([SEVEN, SEVEN], {}, TENSOR_2, 6, 14),
        ([TWO] * 4 + [EIGHT], {}, {"tensor_parallel_size": 4}, 2, 16),
        ([Node(4, 2)], {}, {}, 2, 2),
        ([EIGHT], {"gpus_per_policy": 0.1}, {}, 64, 8),
        ([LAPTOP], {}, TENSOR_2, 1, 1),
        ([HEAD, LAPTOP], {"num_policies": 2, "num_train_workers": 2}, {}, 2, 2),
        ([SEVEN], {"gpus_per_train_worker": 2}, {}, 7, 3),
    ],
    ids=[
        "several nodes",
        "whole groups of each node",
        "small nodes hold none",
        "few CPUs",
        "tenths",
        "no GPU",
        "two on CPUs",
        "workers",
    ],
)
def test_whole_groups_of_each_node_count(
    nodes: list[Node], resources: dict[str, Any], engine: dict[str, Any], policies: int, workers: int
) -> None:
    placement = settled(nodes, resources, engine)
    assert (placement.num_policies, placement.num_train_workers) == (policies, workers)


@pytest.mark.parametrize(
    "nodes, resources, engine, message",
    [
        (
            [TWO, TWO],
            {},
            {"tensor_parallel_size": 4},
            r"num_policies, each with 4 GPUs on one node: the cluster has room for 0 "
            r"\(2 nodes with 2 GPUs and 16 CPUs\); ask for less",
        ),
        ([SEVEN, SEVEN], {"num_policies": 7}, TENSOR_2, r"num_policies = 7, each with 2 GPUs on one node: .* for 6 "),
        ([EIGHT], {"num_policies": 9, "min_policies": 9}, {}, r"min_policies = 9, each with 1 GPU on one node"),
        ([SEVEN], {"num_train_workers": 2, "gpus_per_train_worker": 4}, {}, r"num_train_workers = 2, .* room for 1 "),
        ([LAPTOP], {"num_policies": 3}, {}, r"num_policies = 3, each with a CPU: .* for 2 \(1 node with 2 CPUs\)"),
        ([HEAD], {}, {}, r"num_policies = 1, each with a CPU: the cluster has room for 0 \(1 node with 0 CPUs\)"),
    ],
    ids=["a group on two nodes", "leftovers", "min_policies", "workers", "CPUs", "a head alone"],
)
def test_more_than_the_nodes_hold_is_refused_with_what_they_have(
    nodes: list[Node], resources: dict[str, Any], engine: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        settled(nodes, resources, engine)


@pytest.mark.parametrize(
    "nodes, resources, cpus",
    [([EIGHT], {}, 3), ([Node(8, 16)], {}, 2), ([Node(8, 8)], {}, 1), ([LAPTOP], {}, 2), ([EIGHT, Node(8, 16)], {}, 2)],
    ids=["enough", "two each", "one each", "a laptop", "the poorest node decides"],
)
def test_verifiers_count_as_cpus_where_there_are_any(nodes: list[Node], resources: dict[str, Any], cpus: int) -> None:
    assert settled(nodes, resources, {}).cpus_per_policy == cpus


@pytest.mark.parametrize(
    "resources, engine, policies, gpus_of_each",
    [
        ({}, {}, 8, 1),
        ({}, {"tensor_parallel_size": 4}, 2, 4),
        ({}, {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}, 2, 4),
        ({"num_policies": 3}, {"tensor_parallel_size": 2}, 3, 2),
        ({"gpus_per_policy": 0.5}, {}, 16, 0.5),
        ({"num_policies": 2, "gpus_per_policy": 0}, {}, 2, 0),
    ],
    ids=["one each", "tensor parallel", "pipeline too", "fewer", "two share one", "on CPUs"],
)
def test_policies_take_the_gpus_that_their_engines_span(
    resources: dict[str, Any], engine: dict[str, Any], policies: int, gpus_of_each: float
) -> None:
    settings = experiment(resources, engine)
    placement = place(settings.resources, settings.policy.engine)
    assert (placement.num_policies, placement.gpus_per_policy) == (policies, gpus_of_each)
    arguments = pool_arguments(settings, placement, num_parts=1000, num_problems=16_000)
    assert arguments["num_gpus"] == gpus_of_each, "Ray gives an actor all its GPUs on one node"
    assert arguments["compute"].min_size == policies
    grows = "num_policies" not in resources
    assert arguments["compute"].max_size == (1000 if grows else policies), "GPUs that join are used, unless told else"


def test_more_than_the_cluster_has_is_refused() -> None:
    settings = experiment({"num_policies": 5}, {"tensor_parallel_size": 2})
    with pytest.raises(InputError, match=r"num_policies = 5, each with 2 GPUs on one node: the cluster has room for 4"):
        place(settings.resources, settings.policy.engine)


@pytest.mark.parametrize(
    "resources, least, most",
    [
        ({"num_policies": 32, "min_policies": 8}, 8, 32),
        ({"num_policies": 4, "min_policies": 8}, 4, 4),
        ({"min_policies": 1}, 1, 1000),
        ({}, 8, 1000),
        ({"gpus_per_policy": 0}, 1, 1),
    ],
    ids=["a growing pool", "no more than asked for", "as large as it comes", "all that come", "on CPUs"],
)
def test_how_far_a_pool_grows(resources: dict[str, Any], least: int, most: int) -> None:
    settings = experiment(resources)
    placement = place(settings.resources, settings.policy.engine)
    compute = pool_arguments(settings, placement, num_parts=1000, num_problems=16_000)["compute"]
    assert (compute.min_size, compute.max_size) == (least, most)


@pytest.mark.parametrize(
    "num_parts, num_problems, parts_at_once",
    [(1000, 16_000, 81), (100, 1600, 12), (10_000, 1_000_000, 14), (3, 40, 1)],
    ids=["its window full", "its share", "larger ones", "a handful"],
)
def test_an_actor_holds_its_share_or_as_many_parts_as_fill_its_window(
    num_parts: int, num_problems: int, parts_at_once: int
) -> None:
    settings = experiment()
    assert problems_in_flight(settings) == 1280
    arguments = pool_arguments(settings, place(settings.resources), num_parts, num_problems)
    assert arguments["compute"].max_tasks_in_flight_per_actor == parts_at_once


@pytest.mark.parametrize(
    "resources, engine, expected",
    [({}, {"max_num_seqs": 64}, 80), ({"problems_in_flight": 7}, {"max_num_seqs": 64}, 7)],
    ids=["a quarter more than the batch", "as set"],
)
def test_the_window_follows_the_engines_batch(resources: Any, engine: Any, expected: int) -> None:
    assert problems_in_flight(experiment(resources, engine)) == expected


def lora(folder: Path, rank: int) -> str:
    (folder / "adapter_config.json").write_text(f'{{"r": {rank}}}')
    return str(folder)


@pytest.mark.parametrize(
    "policy, has_gpu, expected",
    [
        ({}, True, {"dtype": "auto", "max_model_len": 2048}),
        ({}, False, {"enforce_eager": True, "enable_chunked_prefill": False}),
        ({"dtype": "float16"}, True, {"dtype": "float16"}),
        (
            {"engine": {"quantization": "fp8", "max_model_len": 300}},
            True,
            {"quantization": "fp8", "max_model_len": 300},
        ),
        ({"engine": {"enforce_eager": False}}, False, {"enforce_eager": False}),
    ],
    ids=["GPU", "CPU", "dtype", "any argument", "the user's word is the last"],
)
def test_engine_arguments(
    policy: dict[str, Any], has_gpu: bool, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ossft_ray.config import Policy
    from ossft_ray.engines import vllm_policy
    from ossft_ray.policy.chat import load_chat

    monkeypatch.setattr(vllm_policy, "_has_gpu", lambda: has_gpu)
    settings = Policy(model="playground", **policy)
    made = vllm_policy.engine_settings(settings, load_chat(settings))
    assert {name: made.get(name) for name in expected} == expected
    assert ("enforce_eager" in made) == (not has_gpu), "on a GPU, CUDA graphs are vLLM's own choice"


@pytest.mark.parametrize("rank, room", [(4, 8), (16, 16), (100, 128)])
def test_a_lora_adapter_gets_the_room_that_it_needs(rank: int, room: int, tmp_path: Path) -> None:
    from ossft_ray.config import Policy
    from ossft_ray.engines.vllm_policy import engine_settings
    from ossft_ray.policy.chat import load_chat
    from ossft_ray.policy.location import model_digest

    settings = Policy(model="playground", lora=lora(tmp_path, rank))
    made = engine_settings(settings, load_chat(settings))
    assert (made["enable_lora"], made["max_lora_rank"]) == (True, room)
    assert model_digest(settings) != model_digest(Policy(model="playground")), "another policy, another fingerprint"


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    from ossft_ray.config import Policy
    from ossft_ray.policy.chat import load_chat

    with pytest.raises(InputError, match=r"lora: .* holds no adapter_config\.json"):
        load_chat(Policy(model="playground", lora=str(tmp_path)))


@pytest.mark.parametrize("has_gpu", [True, False])
def test_batch_invariance_is_asked_of_a_gpu(has_gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    from ossft_ray.config import Policy
    from ossft_ray.engines import vllm_policy
    from ossft_ray.policy.chat import load_chat

    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "0")
    monkeypatch.setattr(vllm_policy, "_has_gpu", lambda: has_gpu)
    settings = Policy(model="playground", batch_invariant=True)
    vllm_policy.engine_settings(settings, load_chat(settings))
    assert os.environ["VLLM_BATCH_INVARIANT"] == ("1" if has_gpu else "0")
