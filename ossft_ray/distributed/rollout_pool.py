"""A pool of rollout workers on Ray Data: its size, the parts each worker holds, and the end of a failed run."""

import threading
from contextlib import suppress
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.data._internal.execution.streaming_executor import StreamingExecutor
from ray.exceptions import RayError

from ossft_ray.common.errors import InputError, JobError
from ossft_ray.config import Experiment
from ossft_ray.distributed.logs import explain_failure
from ossft_ray.distributed.nodes import await_exit, on_driver_node
from ossft_ray.distributed.placement import ResourcePlan
from ossft_ray.distributed.progress import OnProgress, ProgressTally, poll_while_running
from ossft_ray.distributed.replanning import CapacityWatch
from ossft_ray.distributed.rollout_worker import MAX_DEATHS, RolloutWorker
from ossft_ray.distributed.session import plan_resources
from ossft_ray.engines.in_flight import problems_in_flight

_GROW_ABOVE = 0.01  # of the parts that the actors may hold


def pool_arguments(experiment: Experiment, plan: ResourcePlan, num_parts: int, num_problems: int) -> dict[str, Any]:
    """`map_batches` arguments: how many actors, with which resources, and how many parts each holds at once.

    An actor holds the parts that fill its window of problems, and one more, so that it never waits for Ray. It does not
    hold many more, because no other actor can take them over at the end. It holds no more than its share of all parts
    either: otherwise the first actors to be ready would leave nothing to those whose engines load longer.
    """
    num_policies = max(1, min(plan.num_policies, num_parts))
    smallest = min(plan.min_policies, num_policies)
    largest = min(plan.max_policies or num_parts, num_parts)
    parts_in_window = -(-problems_in_flight(experiment) * num_parts // max(1, num_problems))
    parts_at_once = min(parts_in_window + 1, max(1, num_parts // num_policies))
    return {
        "batch_size": 1,
        "num_cpus": plan.cpus_per_policy,
        "num_gpus": plan.gpus_per_policy,
        "compute": ActorPoolStrategy(
            min_size=smallest,
            max_size=largest,
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
    on_progress: OnProgress,
    verbose: bool,
    **settings: Any,
) -> dict[str, int]:
    """Let a pool of workers process all `parts`, in this order; returns the workers' totals.

    `on_progress` gets the totals about twice a second: the worker's own, and `policies` (ready ones), `draws`
    (finished), `requests` (in flight), `generated_tokens` (of finished draws), `sampled_tokens` (of all), and
    `sampling_ms` and `loading_ms`, added up over the policies. `settings` are further arguments of the worker.

    Raises:
        InputError: a worker refused its input.
        JobError: a worker failed; names the cause and the log folder.
        InsufficientCapacity: nodes were lost, and the rest cannot hold all workers.
    """
    if not parts:
        return {}
    plan = plan_resources(experiment.resources, experiment.policy.engine, experiment.verify.num_workers)
    capacity = CapacityWatch("num_policies", plan.gpus_per_policy, plan.cpus_per_policy, experiment.resources)
    _configure_ray_data()
    tally = on_driver_node(ProgressTally)
    arguments = {"experiment": experiment, "tally": tally, "log_name": log_name, "verbose": verbose, **settings}
    dataset = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts)).map_batches(
        worker, fn_constructor_kwargs=arguments, **pool_arguments(experiment, plan, len(parts), num_problems)
    )
    totals: dict[str, int] = {}

    def poll() -> None:
        # Every actor that has reported holds parts, and these wait for it if it is lost.
        capacity.poll(max(totals.get("policies", 0), min(plan.min_policies, len(parts))))
        totals.update(ray.get(tally.totals.remote()))
        on_progress(totals)

    try:
        poll_while_running(dataset.materialize, poll, abandon=_abandon_plan)
        processes = ray.get(tally.processes.remote())
    except (RayError, RuntimeError) as error:
        raise _stop_failed_run(tally) or explain_failure(error, experiment) from error
    finally:
        ray.kill(tally)  # it holds handles of the actors, as the dataset does
    del dataset
    await_exit(processes)
    return totals


def _abandon_plan() -> None:
    """End the threads in which Ray Data runs this plan.

    A thread that still uses Ray while a replanning shuts it down would end the process.
    """
    for thread in threading.enumerate():
        if isinstance(thread, StreamingExecutor):
            thread.shutdown(force=True)


def _configure_ray_data() -> None:
    context = DataContext.get_current()
    # By default Ray Data adds an actor only when the others hold 1.75 times the parts that they work on, which never
    # happens here. Add one as soon as the cluster has a slot and a part waits, and remove none before the end.
    context.autoscaling_config.actor_pool_util_upscaling_threshold = _GROW_ABOVE
    context.autoscaling_config.actor_pool_util_downscaling_threshold = 0.0
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_consecutive_actor_init_deaths = MAX_DEATHS


def _stop_failed_run(tally: Any) -> InputError | JobError | None:
    """Kill the actors, because Ray Data would let them finish their parts; returns the failure that one reported."""
    failure: InputError | JobError | None = None
    with suppress(RayError):
        failure = ray.get(tally.failure.remote())
        for actor in ray.get(tally.actors.remote()):
            ray.kill(actor)
    return failure
