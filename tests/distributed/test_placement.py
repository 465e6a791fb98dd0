"""The resource plan: how many policies and training workers, on which GPUs, with how many parts each."""

from typing import Any

import pytest
import ray

from ossft_ray.common.errors import InputError
from ossft_ray.config import Experiment, resolve
from ossft_ray.distributed.placement import NodeCapacity, ResourcePlan, resolve_resources
from ossft_ray.distributed.rollout_pool import pool_arguments
from ossft_ray.distributed.session import gpus_per_engine, plan_resources
from ossft_ray.engines.in_flight import problems_in_flight

HEAD = NodeCapacity(0, 0)
EIGHT = NodeCapacity(8, 64)
SEVEN = NodeCapacity(7, 64)
TWO = NodeCapacity(2, 16)
LAPTOP = NodeCapacity(0, 2)


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


def resolved(nodes: list[NodeCapacity], resources: dict[str, Any], engine: dict[str, Any]) -> ResourcePlan:
    settings = experiment(resources, engine)
    return resolve_resources(settings.resources, nodes, gpus_per_engine(settings.policy.engine), num_verifiers=2)


TENSOR_2 = {"tensor_parallel_size": 2}


@pytest.mark.parametrize(
    "nodes, resources, engine, policies, workers",
    [
        ([HEAD, EIGHT, EIGHT], {}, {}, 16, 16),
        ([SEVEN, SEVEN], {}, TENSOR_2, 6, 14),
        ([TWO] * 4 + [EIGHT], {}, {"tensor_parallel_size": 4}, 2, 16),
        ([NodeCapacity(4, 2)], {}, {}, 2, 2),
        ([EIGHT], {"gpus_per_policy": 0.1}, {}, 64, 8),
        ([LAPTOP], {}, TENSOR_2, 1, 1),
        ([HEAD, LAPTOP], {"num_policies": 2, "num_train_workers": 2}, {}, 2, 2),
        ([SEVEN], {"gpus_per_train_worker": 2}, {}, 7, 3),
    ],
    ids=[
        "several nodes",
        "leftover GPUs do not add up",
        "nodes too small for a policy",
        "few CPUs",
        "tenths",
        "no GPU",
        "two on CPUs",
        "two GPUs a worker",
    ],
)
def test_each_node_holds_whole_policies(
    nodes: list[NodeCapacity], resources: dict[str, Any], engine: dict[str, Any], policies: int, workers: int
) -> None:
    plan = resolved(nodes, resources, engine)
    assert (plan.num_policies, plan.num_train_workers) == (policies, workers)


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
    ids=["a policy on two nodes", "leftovers", "min_policies", "workers", "CPUs", "a head alone"],
)
def test_asking_for_more_than_the_nodes_hold_is_an_error(
    nodes: list[NodeCapacity], resources: dict[str, Any], engine: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        resolved(nodes, resources, engine)


@pytest.mark.parametrize(
    "nodes, resources, cpus",
    [
        ([EIGHT], {}, 3),
        ([NodeCapacity(8, 16)], {}, 2),
        ([NodeCapacity(8, 8)], {}, 1),
        ([LAPTOP], {}, 2),
        ([EIGHT, NodeCapacity(8, 16)], {}, 2),
    ],
    ids=["enough", "two each", "one each", "a laptop", "the node with fewest CPUs decides"],
)
def test_verifiers_get_a_cpu_each_if_there_are_enough(
    nodes: list[NodeCapacity], resources: dict[str, Any], cpus: int
) -> None:
    assert resolved(nodes, resources, {}).cpus_per_policy == cpus


@pytest.mark.parametrize(
    "resources, engine, num_policies, gpus_each",
    [
        ({}, {}, 8, 1),
        ({}, {"tensor_parallel_size": 4}, 2, 4),
        ({}, {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}, 2, 4),
        ({"num_policies": 3}, {"tensor_parallel_size": 2}, 3, 2),
        ({"gpus_per_policy": 0.5}, {}, 16, 0.5),
        ({"num_policies": 2, "gpus_per_policy": 0}, {}, 2, 0),
    ],
    ids=["one GPU", "tensor parallel", "pipeline parallel too", "fewer policies", "half a GPU", "on CPUs"],
)
def test_a_policy_takes_the_gpus_that_its_engine_spans(
    resources: dict[str, Any], engine: dict[str, Any], num_policies: int, gpus_each: float
) -> None:
    settings = experiment(resources, engine)
    plan = plan_resources(settings.resources, settings.policy.engine)
    assert (plan.num_policies, plan.gpus_per_policy) == (num_policies, gpus_each)
    arguments = pool_arguments(settings, plan, num_parts=1000, num_problems=16_000)
    assert arguments["num_gpus"] == gpus_each, "Ray gives an actor all its GPUs on one node"
    assert arguments["compute"].min_size == num_policies
    grows = "num_policies" not in resources
    assert arguments["compute"].max_size == (1000 if grows else num_policies), "auto uses GPUs that join later"


def test_asking_for_more_than_the_cluster_has_is_an_error() -> None:
    settings = experiment({"num_policies": 5}, {"tensor_parallel_size": 2})
    with pytest.raises(InputError, match=r"num_policies = 5, each with 2 GPUs on one node: the cluster has room for 4"):
        plan_resources(settings.resources, settings.policy.engine)


@pytest.mark.parametrize(
    "resources, smallest, largest",
    [
        ({"num_policies": 32, "min_policies": 8}, 8, 32),
        ({"num_policies": 4, "min_policies": 8}, 4, 4),
        ({"min_policies": 1}, 1, 1000),
        ({}, 8, 1000),
        ({"gpus_per_policy": 0}, 1, 1),
    ],
    ids=["up to num_policies", "num_policies is the limit", "starts with one", "no limit", "on CPUs"],
)
def test_the_size_of_the_pool(resources: dict[str, Any], smallest: int, largest: int) -> None:
    settings = experiment(resources)
    plan = plan_resources(settings.resources, settings.policy.engine)
    compute = pool_arguments(settings, plan, num_parts=1000, num_problems=16_000)["compute"]
    assert (compute.min_size, compute.max_size) == (smallest, largest)


@pytest.mark.parametrize(
    "num_parts, num_problems, parts_at_once",
    [(1000, 16_000, 81), (100, 1600, 12), (10_000, 1_000_000, 14), (3, 40, 1)],
    ids=["the window", "the share", "the window, with large parts", "few parts"],
)
def test_an_actor_holds_the_parts_that_fill_its_window_but_no_more_than_its_share(
    num_parts: int, num_problems: int, parts_at_once: int
) -> None:
    settings = experiment()
    assert problems_in_flight(settings) == 1280
    arguments = pool_arguments(settings, plan_resources(settings.resources), num_parts, num_problems)
    assert arguments["compute"].max_tasks_in_flight_per_actor == parts_at_once
