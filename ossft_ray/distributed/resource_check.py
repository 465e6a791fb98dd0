"""Check that the available GPUs suffice for the experiment, in number and in memory."""

import os
from contextlib import suppress

import ray

from ossft_ray.common.errors import InputError, brief
from ossft_ray.config import Experiment
from ossft_ray.distributed.nodes import alive_nodes, ask_nodes, node_capacities
from ossft_ray.distributed.placement import NodeCapacity, ResourcePlan, resolve_resources
from ossft_ray.distributed.session import gpus_per_engine
from ossft_ray.engines.gpus import gpu_memory, num_visible_gpus
from ossft_ray.engines.training.memory import ModelCounts, lowest_stage, memory_line, training_memory

_ANSWER_SECONDS = 60.0
_UNKNOWN = ValueError, AttributeError, NotImplementedError, RuntimeError  # a model's code may expect real weights


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
    if (smallest := _smallest_gpu(experiment)) is None:
        return None
    num_workers, gpu_bytes = smallest
    try:
        counts = _model_counts(experiment)
    except _UNKNOWN as error:
        return f"not known for this model: {brief(error)}"
    settings = experiment.train
    if settings.zero_stage == "auto":
        settings = settings.model_copy(update={"zero_stage": lowest_stage(counts, settings, num_workers, gpu_bytes)})
    line = memory_line(training_memory(counts, settings, num_workers), num_workers, gpu_bytes)
    return line if settings is experiment.train else f"{line}, with ZeRO stage {settings.zero_stage}"


def with_zero_stage(experiment: Experiment) -> Experiment:
    """The experiment with a number in place of `train.zero_stage = "auto"`; 2 if the GPUs or the model are not known.

    Raises:
        InputError: there are fewer GPUs than asked for.
    """
    settings = experiment.train
    if settings.zero_stage != "auto":
        return experiment
    stage = 2
    if (smallest := _smallest_gpu(experiment)) is not None:
        with suppress(*_UNKNOWN):
            stage = lowest_stage(_model_counts(experiment), settings, *smallest)
    return experiment.model_copy(update={"train": settings.model_copy(update={"zero_stage": stage})})


def _smallest_gpu(experiment: Experiment) -> tuple[int, int] | None:
    """The number of training workers and the bytes of the smallest GPU; None if no GPU of the run is known."""
    plan = check_resources(experiment)
    if plan is None or not plan.gpus_per_train_worker:
        return None
    sizes = _cluster_gpu_memory() if ray.is_initialized() else gpu_memory()
    return (plan.num_train_workers, min(sizes)) if sizes else None


def _model_counts(experiment: Experiment) -> ModelCounts:
    from ossft_ray.engines.training.policy_model import count_parameters  # imports torch

    return count_parameters(experiment.policy, experiment.train)


def _cluster_gpu_memory() -> list[int]:
    nodes = {node["NodeID"]: () for node in alive_nodes() if node["Resources"].get("GPU")}
    task = ray.remote(num_cpus=0, max_retries=0)(gpu_memory)
    answers, _ = ask_nodes(task, nodes, _ANSWER_SECONDS)
    return [size for sizes in answers.values() for size in sizes]
