"""A pool of rollout workers on Ray Data: how many actors, what each holds, and how a failed plan ends."""

from contextlib import suppress
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError

from ossft_ray.common.errors import InputError, JobError
from ossft_ray.config import Experiment
from ossft_ray.distributed.placement import Placement
from ossft_ray.distributed.processes import await_ends
from ossft_ray.distributed.progress import OnProgress, Tally, watch
from ossft_ray.distributed.replanning import Room
from ossft_ray.distributed.rollout_worker import MAX_DEATHS, RolloutWorker, failure
from ossft_ray.distributed.session import beside_driver, place
from ossft_ray.engines.in_flight import problems_in_flight

_GROW_ABOVE = 0.01  # of the parts that the actors may hold


def pool_arguments(experiment: Experiment, placement: Placement, num_parts: int, num_problems: int) -> dict[str, Any]:
    """`map_batches` arguments: how many actors, with which resources, and how many parts each holds at once.

    An actor holds as many parts as fill its window of problems, and one more, so that it never waits for Ray; not
    many more, because what it holds at the end is what others cannot take from it. And no more than its share of all,
    or the first that are ready would leave nothing to those whose engines load longer.
    """
    num_policies = max(1, min(placement.num_policies, num_parts))
    most = min(placement.max_policies or num_parts, num_parts)
    least = min(placement.min_policies, num_policies)
    filling = -(-problems_in_flight(experiment) * num_parts // max(1, num_problems)) + 1
    parts_at_once = min(filling, max(1, num_parts // num_policies))
    return {
        "batch_size": 1,
        "num_cpus": placement.cpus_per_policy,
        "num_gpus": placement.gpus_per_policy,
        "compute": ActorPoolStrategy(
            **({"size": least} if least == most else {"min_size": least, "max_size": most}),
            max_tasks_in_flight_per_actor=parts_at_once,
            max_concurrent_calls_per_actor=parts_at_once,
        ),
    }


def run_workers(
    worker: type[RolloutWorker],
    experiment: Experiment,
    parts: list[str],
    num_problems: int,
    log_name: str,
    on_progress: OnProgress | None,
    verbose: bool,
    **settings: Any,
) -> dict[str, int]:
    """Let a pool of workers process all `parts`, in this order; returns the workers' totals.

    `on_progress` gets the totals about twice a second.

    Raises:
        InputError: a worker refused its input.
        JobError: a worker failed; names the cause and the log folder.
        NoRoom: nodes were lost, and those that are left have no room for all workers.
    """
    if not parts:
        return {}
    placement = place(experiment.resources, experiment.policy.engine, experiment.verify.num_workers)
    context = DataContext.get_current()
    # By default Ray Data adds an actor only when the others hold 1.75 times the parts that they work on, which never
    # happens here: add one as soon as the cluster has room and a part waits, and take none away before the end.
    context.autoscaling_config.actor_pool_util_upscaling_threshold = _GROW_ABOVE
    context.autoscaling_config.actor_pool_util_downscaling_threshold = 0.0
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_consecutive_actor_init_deaths = MAX_DEATHS
    tally = beside_driver(Tally)
    dataset = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts)).map_batches(
        worker,
        fn_constructor_kwargs={
            "experiment": experiment,
            "tally": tally,
            "log_name": log_name,
            "verbose": verbose,
            **settings,
        },
        **pool_arguments(experiment, placement, len(parts), num_problems),
    )
    totals: dict[str, int] = {}
    room = Room("num_policies", placement.gpus_per_policy, placement.cpus_per_policy, experiment)

    def poll() -> None:
        # All that have been at work hold parts, which wait for them if they are lost.
        room.poll(max(totals.get("policies", 0), min(placement.min_policies, len(parts))))
        totals.update(ray.get(tally.totals.remote()))
        if on_progress is not None:
            on_progress(totals)

    try:
        watch(dataset.materialize, poll)
        processes = ray.get(tally.processes.remote())
    except (RayError, RuntimeError) as error:
        told = _told(tally)
        _kill_workers(tally)
        raise told or failure(error, experiment) from error
    finally:
        ray.kill(tally)  # which holds the workers, as the dataset does
    del dataset
    await_ends(processes)
    return totals


def _kill_workers(tally: Any) -> None:
    """Of a failed plan, which Ray Data lets go on with the parts they have: what they were at is logged."""
    with suppress(RayError):
        for worker in ray.get(tally.workers.remote()):
            ray.kill(worker)


def _told(tally: Any) -> InputError | JobError | None:
    """What a worker said before it failed."""
    try:
        told: InputError | JobError | None = ray.get(tally.failure.remote())
    except RayError:
        return None
    return told
