"""Run one function on every training worker, restart lost workers, and turn failures into one-line errors.

Ray Train makes the process group that DeepSpeed's collective calls go through.
"""

import os
import socket
from collections.abc import Callable
from typing import Any

import ray
import ray.train
import torch
from ray.train.torch import TorchTrainer

from ossft_ray.common.errors import InputError, JobError, Stopped, root_cause
from ossft_ray.common.storage import Folder
from ossft_ray.config import Experiment
from ossft_ray.distributed.logs import RESUME, redirect_output, see_logs, what_to_do
from ossft_ray.distributed.nodes import on_driver_node
from ossft_ray.distributed.progress import FirstFailure, poll_while_running
from ossft_ray.distributed.replanning import CapacityWatch
from ossft_ray.distributed.session import plan_resources

Work = Callable[[dict[str, Any]], Stopped | None]
_MAX_FAILURES = 2  # lost workers in one fit; after each, the group resumes from what is written
# threads that spin while they wait make a step 40 times slower as soon as another program uses one of the cores
_CPU_ENVIRONMENT = {"DS_ACCELERATOR": "cpu", "OMP_WAIT_POLICY": "PASSIVE"}
# without it, passes of different lengths leave free memory in pieces that are too small to use
_GPU_ENVIRONMENT = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}


def run_group(
    work: Work,
    config: dict[str, Any],
    experiment: Experiment,
    folder: Folder,
    name: str,
    poll: Callable[[], None],
    written: Callable[[], object],
) -> None:
    """Run `work(config)` in `[resources] num_train_workers` workers, and call `poll` until they end.

    An InputError or JobError of any worker ends the run at once, because a restarted worker would meet it again.

    Ray Train keeps its state in the folder `name` of the stage's `folder`. `written` returns what workers would resume
    from. After too many lost workers the fit starts again if that has changed, because spot machines are lost often.

    Raises:
        JobError: too many workers were lost and nothing new was written; says why, where the log is, how to resume.
        InsufficientCapacity: nodes were lost, and the rest cannot hold all workers.
        InputError, JobError: the first that `work` raised.
        Stopped: what `work` returned.
    """
    plan = plan_resources(experiment.resources)
    capacity = CapacityWatch("num_train_workers", plan.gpus_per_train_worker, 1, experiment.resources)
    uses_gpus = plan.gpus_per_train_worker > 0
    resources = {"CPU": 1, "GPU": plan.gpus_per_train_worker} if uses_gpus else {"CPU": 1}
    scaling = ray.train.ScalingConfig(
        num_workers=plan.num_train_workers, use_gpu=uses_gpus, resources_per_worker=resources
    )
    run_config = ray.train.RunConfig(
        name=name,
        storage_path=folder.path,
        storage_filesystem=folder.filesystem,
        failure_config=ray.train.FailureConfig(max_failures=_MAX_FAILURES),
        worker_runtime_env={"env_vars": _GPU_ENVIRONMENT if uses_gpus else _CPU_ENVIRONMENT},
    )

    # A worker that fails reports it, because the others cannot end: they wait for it in a collective call.
    first_failure = on_driver_node(ray.remote(num_cpus=0)(FirstFailure))

    def poll_all() -> None:
        if (error := ray.get(first_failure.failure.remote())) is not None:
            raise error
        capacity.poll(plan.num_train_workers)
        poll()

    written_before = written()
    while True:
        trainer = TorchTrainer(
            _guarded(work, first_failure), train_loop_config=config, scaling_config=scaling, run_config=run_config
        )
        try:
            error: Exception | None = poll_while_running(trainer.fit, poll_all).return_value
            break
        except ray.train.TrainingFailedError as failure:
            if (written_now := written()) == written_before:
                raise _job_error(failure, folder.path.rpartition("/")[2], experiment) from failure
            written_before = written_now
    if error is not None:
        raise error


def _guarded(work: Work, first_failure: Any) -> Callable[[dict[str, Any]], Exception | None]:
    """Let the work run in the driver's folder, and report an error that a restarted worker would meet again."""
    folder = os.getcwd()  # the experiment's relative paths start here; Ray Train changes the working folder

    def run(config: dict[str, Any]) -> Exception | None:
        known: Exception | None = ray.get(first_failure.failure.remote())
        if known is not None:  # Ray Train has restarted the group after this error
            return known
        if os.path.isdir(folder):  # other nodes may lack it; their experiments have no relative paths
            os.chdir(folder)
        try:
            return work(config)
        except (InputError, JobError) as error:
            ray.get(first_failure.record_failure.remote(error))
            raise

    return run


def _job_error(error: Exception, stage: str, experiment: Experiment) -> JobError:
    rank, cause = min((getattr(error, "worker_failures", None) or {0: error}).items())
    newest = "checkpoint" if stage == "train" else "part"
    message = f"{stage}: worker {rank} failed: {root_cause(cause)}{see_logs(experiment)}"
    follow = what_to_do(cause)
    return JobError(f"{message}; {follow}" + (f" from the newest {newest}" if follow == RESUME else ""))


def begin_worker(experiment: Experiment, stage: str, verbose: bool) -> int:
    """Give this worker its log file and its share of the machine's cores; returns its rank."""
    context = ray.train.get_context()
    rank = int(context.get_world_rank())
    if not verbose:
        redirect_output(experiment, f"{stage}-{rank}")
    print(f"rank {rank} of {context.get_world_size()} on {socket.gethostname()}", flush=True)
    # Ray allows a worker one thread, which suits work on a GPU. An offloaded optimizer works on the CPU.
    if not ray.get_gpu_ids() or experiment.train.offload != "none":
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // context.get_local_world_size()))
    return rank
