"""This machine's Ray, or the cluster's: starting it, what it has to give, and where worker noise goes."""

import logging
import math
import os
from pathlib import Path
from typing import Any

import ray

from ossft_ray.common.errors import InputError
from ossft_ray.config import Experiment, Resources
from ossft_ray.distributed.logs import divert_native_stderr
from ossft_ray.distributed.nodes import alive_nodes, on_node
from ossft_ray.distributed.placement import Node, Placement, settle
from ossft_ray.distributed.shared_output import check_shared
from ossft_ray.run_folder.provenance import write_config

_ENVIRONMENT = {
    "RAY_worker_niceness": "0",  # on a machine of our own the workers are the work
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait take the cores of those that work
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_NO_USAGE_STATS": "1",
}
# For a Ray of this machine alone, whose engines and workers need nobody else. Its token is Ray's own default: with
# RAY_AUTH_MODE set only here, after Ray was imported, the processes that it starts would ask for a token and this one,
# which has read the variable before, would send none.
_ALONE = {
    "VLLM_HOST_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
}


def start_ray(experiment: Experiment, verbose: bool = False) -> None:
    """Connect to the cluster that `RAY_ADDRESS` names (as in a submitted job), else start Ray on this machine.

    Unless `verbose`, what Ray's core prints from now on goes to `logs/ray.log` of the run. The run's `config.json`
    notes what the cluster has.

    Raises:
        InputError: the cluster has several nodes, and one of them does not see the run's folder.
    """
    if not ray.is_initialized():
        _start(experiment, verbose)
    check_shared(experiment.run.output)
    resources = ray.cluster_resources()
    write_config(
        experiment, {"nodes": len(alive_nodes()), "cpus": resources.get("CPU", 0), "gpus": resources.get("GPU", 0)}
    )


def _start(experiment: Experiment, verbose: bool) -> None:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not verbose:
        divert_native_stderr(experiment)
        for name in ("ray", "ray.data", "ray.train"):
            logging.getLogger(name).setLevel(logging.ERROR)
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=verbose, logging_level="WARNING")
    else:
        for name, value in _ALONE.items():
            os.environ.setdefault(name, value)
        ray.init(address="local", include_dashboard=False, log_to_driver=verbose, logging_level="ERROR")


def place(resources: Resources, engine: dict[str, Any] | None = None, num_verifiers: int = 0) -> Placement:
    """Settle `[resources]` on the running cluster, as `settle` does.

    A policy takes the GPUs that its `[policy.engine]` parallel sizes multiply to.

    Raises:
        InputError: more is asked for than the cluster has.
    """
    return settle(resources, cluster_nodes(), engine_gpus(engine or {}), num_verifiers)


def cluster_nodes() -> list[Node]:
    """The nodes that are alive. A head that was started with no CPUs of its own has none to give."""
    resources = (node["Resources"] for node in alive_nodes())
    return [Node(has.get("GPU", 0), has.get("CPU", 0)) for has in resources]


def beside_driver(actor: Any) -> Any:
    """A new actor of the class on the driver's own node: any other may be lost while the driver lives."""
    return on_node(actor, ray.get_runtime_context().get_node_id()).remote()


def engine_gpus(engine: dict[str, Any]) -> int:
    """GPUs that one vLLM engine with these arguments takes."""
    sizes = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
    return math.prod(int(engine.get(name, 1)) for name in sizes)


def check_output(output: str) -> None:
    """A job runs in a folder of its own that Ray removes, so a relative output there would be lost.

    Raises:
        InputError: `output` is relative and this process is a submitted job's driver.
    """
    is_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ  # set by Ray for the driver of a submitted job
    if is_job and "://" not in output and not Path(output).expanduser().is_absolute():
        raise InputError(f"[run] output: '{output}' is relative, and this is a submitted job; give an absolute path")
