"""What does a cluster's monitoring see of a run? Counters and gauges, which Ray exports for Prometheus.

There the counter `ossft_problems` is `ray_ossft_problems_total`, the gauge `ossft_train_loss` `ray_ossft_train_loss`.
Each carries the run's output and the stage; Ray adds the node and the worker. `cluster/grafana.json` shows them.

A counter starts from nothing with each process, as Prometheus' `rate` and `increase` expect; a gauge goes with its
process.
"""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from ray.util.metrics import Counter, Gauge

_REFRESH_SECONDS = 1.0
_TAGS = ("run", "stage")  # of all; the stage of an evaluation is `evaluate-MODEL`

# What each counts, and the tags it has beside those of all.
COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "ossft_problems": ("Problems done; those of rewriting by the origin of what was kept", ("origin",)),
    "ossft_generated_tokens": ("Tokens of responses that the policy has sampled", ()),
    "ossft_verdicts": ("Verdicts of the verifiers, by reason; timeout and memory are their limits", ("reason",)),
    "ossft_engine_deaths": ("Engines that died and were started again", ()),
    "ossft_scored_tokens": ("Response tokens whose log-probability was computed", ()),
}

_OF_TRAINING = {
    "step": "Optimiser steps done",
    "num_steps": "Optimiser steps of the whole training",
    "loss": "Loss of the newest step",
    "cross_entropy": "Mean -log p of the newest step's response tokens",
    "grad_norm": "Gradient norm of the newest step, before clipping",
    "learning_rate": "Learning rate of the newest step",
    "tokens_per_second": "Response tokens a second of the newest step, all workers together",
}
GAUGES: dict[str, str] = {
    "ossft_requests_in_flight": "Requests that the engine works on, or that wait in its queue",
    "ossft_verdicts_in_flight": "Responses that are being graded, or wait for it",
    **{f"ossft_train_{name}": description for name, description in _OF_TRAINING.items()},
}


class ClusterMetrics:
    """One process's counters and gauges. Recording takes microseconds, and does nothing where no Ray runs."""

    def __init__(self, run: str, stage: str) -> None:
        self._tags = {"run": run, "stage": stage}
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, tuple[Gauge, Callable[[], float]]] = {}
        self._closing = threading.Event()

    def count(self, name: str, amount: float = 1, **tags: str) -> None:
        """Add to a counter of `COUNTERS`; adding nothing is allowed."""
        if name not in self._counters:
            description, own = COUNTERS[name]
            self._counters[name] = Counter(name, description, (*_TAGS, *own)).set_default_tags(self._tags)
        if amount > 0:
            self._counters[name].inc(amount, tags)

    def watch(self, name: str, read: Callable[[], float]) -> None:
        """Let a gauge of `GAUGES` be what `read` says at any time; a later `read` takes the place of an earlier."""
        if not self._gauges:
            threading.Thread(target=self._keep_set, name="cluster metrics", daemon=True).start()
        gauge = self._gauges[name][0] if name in self._gauges else Gauge(name, GAUGES[name], _TAGS)
        self._gauges = {**self._gauges, name: (gauge, read)}  # never changed under the thread's hands

    def watch_training(self, metrics: dict[str, Any]) -> None:
        """Let the gauges of training be a step's metrics, as in `metrics.jsonl`."""
        for name in _OF_TRAINING:
            if name in metrics:
                self.watch(f"ossft_train_{name}", partial(float, metrics[name]))

    def close(self) -> None:
        """Let the gauges go."""
        self._closing.set()

    def _keep_set(self) -> None:
        """Ray forgets a gauge that is not set again within two of its reports (20 s): a step may take longer."""
        while not self._closing.wait(_REFRESH_SECONDS):
            for gauge, read in self._gauges.values():
                gauge.set(read(), self._tags)
