"""Replanning after a lost node: wait for it to return, then run the stage again on the nodes that are left.

Ray restarts an actor of a lost node as soon as another node has a free slot. If none has one, the actor's work would
wait forever. All finished work is in the run's folder, so the stage starts again with fewer actors and resumes from it.
"""

import functools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import ray

from ossft_ray.common.durations import parse_duration
from ossft_ray.common.errors import JobError
from ossft_ray.config import Experiment, Resources
from ossft_ray.distributed.nodes import node_capacities
from ossft_ray.distributed.placement import NodeCapacity, slots_on
from ossft_ray.distributed.progress import OnProgress, announce, ignore
from ossft_ray.run_folder.resolved_run import Run

_CHECK_SECONDS = 5.0
T = TypeVar("T")


class InsufficientCapacity(Exception):
    """The cluster has been too small for too long: only `num_left` of the actors that `[resources]` `key` sets fit."""

    def __init__(self, key: str, num_planned: int, num_left: int) -> None:
        actors = key.removeprefix("num_").replace("_", " ")
        super().__init__(f"a node was lost: the cluster now holds {num_left} of {num_planned} {actors}")
        self.key, self.num_left = key, num_left


@dataclass
class CapacityWatch:
    """Checks every few seconds that the cluster still holds the planned actors of one size."""

    key: str  # of `[resources]`, the number of these actors
    gpus_each: float
    cpus_each: int
    resources: Resources
    nodes: Callable[[], list[NodeCapacity]] = node_capacities
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._checked_at = self._sufficient_at = self.clock()

    def poll(self, count: int) -> None:
        """Raises InsufficientCapacity if the cluster has held fewer than `count` for `[resources] replan_after`."""
        now = self.clock()
        if now - self._checked_at < _CHECK_SECONDS:
            return
        self._checked_at = now
        slots = slots_on(self.nodes(), self.gpus_each, self.cpus_each)
        if slots >= count:
            self._sufficient_at = now
        elif now - self._sufficient_at > parse_duration(self.resources.replan_after):
            raise InsufficientCapacity(self.key, count, slots)


def replanned(stage: Callable[..., T]) -> Callable[..., T]:
    """Decorate a stage so that it starts again with fewer actors when the cluster has become too small for it."""

    @functools.wraps(stage)
    def repeated(
        run: Experiment | Run,
        on_progress: OnProgress = ignore,
        start_over: bool = False,
        verbose: bool = False,
        **others: Any,
    ) -> T:
        while True:
            resources = run.experiment.resources if isinstance(run, Run) else run.resources
            try:
                return stage(run, on_progress, start_over, verbose, **others)
            except InsufficientCapacity as shortage:
                if shortage.num_left < 1:
                    raise JobError(f"{shortage}; run the same command again when nodes are back") from None
                update: dict[str, Any] = {"min_policies": None}
                if getattr(resources, shortage.key) != "auto":  # auto fits the cluster, and grows with it
                    update[shortage.key] = shortage.num_left
                smaller = resources.model_copy(update=update)
                note = f"{shortage}; continuing with {shortage.num_left}"
                if not announce(on_progress, note=note):
                    print(note, file=sys.stderr, flush=True)
            ray.shutdown()  # ends what still waits for a slot; the stage connects again
            run, start_over = Run.of(run).updated(resources=smaller), False

    return repeated
