"""Whether the GPUs that there are suffice for what the experiment asks for, in number and in memory."""

import os

import ray

from ossft_ray.common.errors import InputError, brief
from ossft_ray.config import Experiment
from ossft_ray.distributed.nodes import alive_nodes, ask_nodes, node_capacities
from ossft_ray.distributed.placement import NodeCapacity, ResourcePlan, resolve_resources
from ossft_ray.distributed.session import gpus_per_engine
from ossft_ray.engines.gpus import gpu_memory, num_visible_gpus
from ossft_ray.engines.training.memory import memory_line, training_memory

_ANSWER_SECONDS = 60.0


def check_resources(experiment: Experiment) -> ResourcePlan | None:
    """The plan for the running Ray, or for this machine if the run will be on it; None if it will be on a cluster.

    Raises:
        InputError: more GPUs or CPUs are asked for than there are.
    """
    if os.environ.get("RAY_ADDRESS") and not ray.is_initialized():
        return None  # `check --cluster` asks the cluster
    here = [NodeCapacity(num_visible_gpus(), os.cpu_count() or 1)]
    nodes = node_capacities() if ray.is_initialized() else here
    try:
        return resolve_resources(experiment.resources, nodes, gpus_per_engine(experiment.policy.engine), 0)
    except InputError as error:
        raise InputError(f"{error}, or run this on the machines that the job will use") from error


def check_training_memory(experiment: Experiment) -> str | None:
    """What training needs of each GPU, in one line, from the model's config; None if no GPU of the run is known.

    Raises:
        InputError: the smallest GPU has less, or there are fewer GPUs than asked for.
    """
    plan = check_resources(experiment)
    if plan is None or not plan.gpus_per_train_worker:
        return None
    if not (sizes := _cluster_gpu_memory() if ray.is_initialized() else gpu_memory()):
        return None
    from ossft_ray.engines.training.policy_model import count_parameters  # imports torch

    policy, settings, num_workers = experiment.policy, experiment.train, plan.num_train_workers
    try:
        counts = count_parameters(policy, settings)
    except (ValueError, AttributeError, NotImplementedError, RuntimeError) as error:
        return f"not known for this model: {brief(error)}"  # its code may expect real weights
    needed = training_memory(counts, settings, num_workers)
    return memory_line(needed, num_workers, min(sizes))


def _cluster_gpu_memory() -> list[int]:
    nodes = {node["NodeID"]: () for node in alive_nodes() if node["Resources"].get("GPU")}
    task = ray.remote(num_cpus=0, max_retries=0)(gpu_memory)
    answers, _ = ask_nodes(task, nodes, _ANSWER_SECONDS)
    return [size for sizes in answers.values() for size in sizes]
