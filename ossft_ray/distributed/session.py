"""The Ray session of a command: the cluster that it joins, or a local Ray instance on this machine."""

import logging
import math
import os
from pathlib import Path
from typing import Any

import ray

from ossft_ray.common.errors import InputError, JobError
from ossft_ray.config import Experiment, Resources
from ossft_ray.distributed.logs import divert_native_stderr
from ossft_ray.distributed.nodes import alive_nodes, node_capacities
from ossft_ray.distributed.placement import ResourcePlan, resolve_resources
from ossft_ray.distributed.shared_output import check_shared
from ossft_ray.run_folder.provenance import write_config

_ENVIRONMENT = {
    "RAY_worker_niceness": "0",  # the workers are what this machine is for
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait take cores from those that work
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_NO_USAGE_STATS": "1",
}
# For a local Ray instance: no other machine can reach its engines and workers. Ray authenticates by token by
# default. RAY_AUTH_MODE must not be set here: Ray, already imported, has read it, so the processes it starts would
# demand a token that this process does not send.
_LOCAL_ENVIRONMENT = {"VLLM_HOST_IP": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}


def start_ray(experiment: Experiment, verbose: bool = False) -> None:
    """Connect to the cluster that `RAY_ADDRESS` names (as in a submitted job), else start Ray on this machine.

    Unless `verbose`, what Ray's core prints from now on goes to `logs/ray.log` of the run. The run's `config.json`
    records the size of the cluster.

    Raises:
        InputError: the cluster has several nodes, and one of them does not see the run's folder.
        JobError: Ray did not start in time.
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
        for name, value in _LOCAL_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        try:
            ray.init(address="local", include_dashboard=False, log_to_driver=verbose, logging_level="ERROR")
        except Exception as error:  # a plain Exception of Ray's, after a time that cannot be set
            if "timed out during startup" not in str(error):
                raise
            raise JobError(
                "Ray did not start within 30 seconds, as can happen on a very busy machine; run the same command again "
                "to resume"
            ) from error


def plan_resources(resources: Resources, engine: dict[str, Any] | None = None, num_verifiers: int = 0) -> ResourcePlan:
    """Resolve `[resources]` on the running cluster, for engines with these `[policy.engine]` arguments.

    Raises:
        InputError: more is asked for than the cluster has.
    """
    return resolve_resources(resources, node_capacities(), gpus_per_engine(engine or {}), num_verifiers)


def gpus_per_engine(engine: dict[str, Any]) -> int:
    """The GPUs that one vLLM engine with these arguments spans: the product of its parallel sizes."""
    sizes = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
    return math.prod(int(engine.get(name, 1)) for name in sizes)


def check_output(output: str) -> None:
    """Refuse a relative output in a submitted job: it would lie in the job's own folder, which Ray removes.

    Raises:
        InputError: `output` is relative and this process is a submitted job's driver.
    """
    is_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ  # set by Ray for the driver of a submitted job
    if is_job and "://" not in output and not Path(output).expanduser().is_absolute():
        raise InputError(f"[run] output: '{output}' is relative, and this is a submitted job; give an absolute path")
