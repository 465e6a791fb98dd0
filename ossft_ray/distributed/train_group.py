"""The same function in each of a stage's training workers: where they run, what becomes of one that dies, what it says.

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

from ossft_ray.common.errors import JobError
from ossft_ray.common.storage import Folder
from ossft_ray.config import Experiment
from ossft_ray.distributed.logs import log_folder, redirect_output
from ossft_ray.distributed.progress import watch
from ossft_ray.distributed.replanning import Room
from ossft_ray.distributed.session import place

_MAX_FAILURES = 2  # of a worker in one fit, each answered by going on from what is written
# threads that spin while they wait make a step 40 times slower as soon as another program uses one of the cores
_CPU_ENVIRONMENT = {"DS_ACCELERATOR": "cpu", "OMP_WAIT_POLICY": "PASSIVE"}


def run_group(
    work: Callable[[dict[str, Any]], Exception | None],
    config: dict[str, Any],
    experiment: Experiment,
    folder: Folder,
    name: str,
    poll: Callable[[], None],
    written: Callable[[], object],
) -> None:
    """Run `work(config)` in `[resources] num_train_workers` workers, and `poll` meanwhile.

    Ray Train keeps its own state in the folder `name` of the stage's `folder`. `written` tells what workers could go on
    from: a fit that has lost too many workers begins again if that has changed, as spot machines are lost often.

    Raises:
        JobError: a worker died again and again and nothing was written; says why, where the log is and how to go on.
        NoRoom: nodes were lost, and those that are left have no room for all workers.
        Exception: what `work` returned.
    """
    placement = place(experiment.resources)
    on_gpu = placement.gpus_per_train_worker > 0
    each = {"CPU": 1, "GPU": placement.gpus_per_train_worker} if on_gpu else {"CPU": 1}
    room = Room("num_train_workers", placement.gpus_per_train_worker, 1, experiment)

    def poll_all() -> None:
        room.poll(placement.num_train_workers)
        poll()

    def fit() -> Exception | None:
        trainer = TorchTrainer(
            _where_the_driver_is(work),
            train_loop_config=config,
            scaling_config=ray.train.ScalingConfig(
                num_workers=placement.num_train_workers,
                use_gpu=on_gpu,
                resources_per_worker=each,
            ),
            run_config=ray.train.RunConfig(
                name=name,
                storage_path=folder.path,
                storage_filesystem=folder.filesystem,
                failure_config=ray.train.FailureConfig(max_failures=_MAX_FAILURES),
                worker_runtime_env={} if on_gpu else {"env_vars": _CPU_ENVIRONMENT},
            ),
        )
        refusal: Exception | None = watch(trainer.fit, poll_all).return_value
        return refusal

    had = written()
    while True:
        try:
            refusal = fit()
            break
        except ray.train.TrainingFailedError as error:
            before, had = had, written()
            if had == before:
                raise _failure(error, folder.path.rpartition("/")[2], experiment) from error
    if refusal is not None:
        raise refusal


def _where_the_driver_is(work: Callable[[dict[str, Any]], Exception | None]) -> Callable[[dict[str, Any]], Any]:
    """Ray Train moves its workers to a folder of its own, where the experiment's relative paths mean nothing."""
    folder = os.getcwd()

    def begin(config: dict[str, Any]) -> Exception | None:
        if os.path.isdir(folder):  # another node has no such folder, and its experiments no relative paths
            os.chdir(folder)
        return work(config)

    return begin


def _failure(error: Exception, stage: str, experiment: Experiment) -> JobError:
    """One line for Ray's pages: the first failed worker's own error, and where to read on."""
    failures = getattr(error, "worker_failures", None) or {0: error}
    rank, cause = min(failures.items())
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    logs = log_folder(experiment)
    return JobError(
        f"{stage}: worker {rank} failed: {lines[-1] if lines else type(cause).__name__}"
        + (f"; logs: {logs}" if logs else "")
        + f"; the same command goes on from the newest {'checkpoint' if stage == 'train' else 'part'}"
    )


def begin_worker(experiment: Experiment, stage: str, verbose: bool) -> int:
    """Give this worker its log file and its share of the machine's cores; returns its rank."""
    context = ray.train.get_context()
    rank = int(context.get_world_rank())
    if not verbose:
        redirect_output(experiment, f"{stage}-{rank}")
    print(f"rank {rank} of {context.get_world_size()} on {socket.gethostname()}", flush=True)
    if not ray.get_gpu_ids():
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // context.get_local_world_size()))
    return rank
