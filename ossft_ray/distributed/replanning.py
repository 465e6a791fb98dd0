"""What becomes of a plan when the cluster shrinks? It waits for the lost node, and is then made anew for what is left.

Ray starts an actor of a lost node again as soon as another node has room for it. Where all are full there is none, and
its work would wait for ever. All work is kept in the run's folder, so the stage simply begins again where it was.
"""

import functools
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import ray

from ossft_ray.common.durations import parse_duration
from ossft_ray.common.errors import JobError
from ossft_ray.config import Experiment
from ossft_ray.distributed.placement import Node
from ossft_ray.distributed.progress import OnProgress
from ossft_ray.distributed.session import cluster_nodes

_ASK_SECONDS = 5.0  # between questions to the cluster
T = TypeVar("T")


class NoRoom(Exception):
    """The cluster has had no room for the plan for too long; `num_left` of the actors of kind `name` would fit."""

    def __init__(self, name: str, num_planned: int, num_left: int) -> None:
        actors = name.removeprefix("num_").replace("_", " ")
        super().__init__(f"a node was lost: of {num_planned} {actors} the cluster can hold {num_left}")
        self.name, self.num_left = name, num_left


class Room:
    """Asks now and then whether the cluster still holds as many actors of a size as it did."""

    def __init__(
        self,
        name: str,
        gpus_each: float,
        cpus_each: int,
        experiment: Experiment,
        nodes: Callable[[], list[Node]] = cluster_nodes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`name` is the key of `[resources]` that says how many."""
        self._name, self._size = name, (gpus_each, cpus_each)
        self._patience = parse_duration(experiment.resources.replan_after)
        self._nodes, self._clock = nodes, clock
        self._asked_at = self._enough_at = clock()

    def poll(self, count: int) -> None:
        """Raises NoRoom if fewer than `count` have fitted for `[resources] replan_after`."""
        now = self._clock()
        if now - self._asked_at < _ASK_SECONDS:
            return
        self._asked_at = now
        fitting = sum(node.room(*self._size) for node in self._nodes())
        if fitting >= count:
            self._enough_at = now
        elif now - self._enough_at > self._patience:
            raise NoRoom(self._name, count, fitting)


def replanned(stage: Callable[..., T]) -> Callable[..., T]:
    """A stage that begins again, smaller, when the cluster has lost the room for it."""

    @functools.wraps(stage)
    def run(
        experiment: Experiment,
        on_progress: OnProgress | None = None,
        start_over: bool = False,
        verbose: bool = False,
        **others: Any,
    ) -> T:
        while True:
            try:
                return stage(experiment, on_progress, start_over, verbose, **others)
            except NoRoom as lost:
                if lost.num_left < 1:
                    raise JobError(f"{lost}; the same command goes on when there are nodes again") from None
                update: dict[str, Any] = {"min_policies": None}
                if getattr(experiment.resources, lost.name) != "auto":  # which is settled anew, and grows again
                    update[lost.name] = lost.num_left
                smaller = experiment.resources.model_copy(update=update)
                print(f"{lost}; going on with those", file=sys.stderr, flush=True)
            ray.shutdown()  # ends what still waits; the stage connects again
            experiment, start_over = experiment.model_copy(update={"resources": smaller}), False

    return run
