"""Counters and gauges of a run, which Ray exports for Prometheus and `cluster/grafana.json` shows.

Prometheus sees the counter `ossft_problems` as `ray_ossft_problems_total`, the gauge `ossft_train_loss` as
`ray_ossft_train_loss`. Each is labelled with the run's output and the stage; Ray adds the node and the worker.

A counter starts at zero in each process, as Prometheus' `rate` and `increase` expect; a gauge ends with its process.
"""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from ray.util.metrics import Counter, Gauge

_REFRESH_SECONDS = 1.0
_MAX_TAG = 100  # characters
_TAGS = ("run", "stage")  # on all of them; the stage of an evaluation is `evaluate-MODEL`

# The description of each counter, and its tags in addition to _TAGS
COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "ossft_problems": ("Problems done; in rewriting by the origin of the kept response", ("origin",)),
    "ossft_generated_tokens": ("Tokens of responses that the policy has sampled", ()),
    "ossft_verdicts": ("Verdicts by reason; timeout and memory are the verifiers' limits", ("reason",)),
    "ossft_engine_deaths": ("Engines that died and were replaced", ()),
    "ossft_scored_tokens": ("Response tokens whose log-probability was computed", ()),
}

_TRAINING = {
    "step": "Optimiser steps done",
    "num_steps": "Optimiser steps of the whole training run",
    "loss": "Loss of the newest step",
    "cross_entropy": "Mean -log p of the newest step's response tokens",
    "grad_norm": "Gradient norm of the newest step, before clipping",
    "learning_rate": "Learning rate of the newest step",
    "tokens_per_second": "Response tokens a second of the newest step, over all workers",
}
GAUGES: dict[str, str] = {
    "ossft_requests_in_flight": "Requests that the engine works on or has queued",
    "ossft_verdicts_in_flight": "Responses that are being graded or wait to be",
    **{f"ossft_train_{name}": description for name, description in _TRAINING.items()},
}


class ClusterMetrics:
    """One process's counters and gauges. Recording takes microseconds, and does nothing in a process without Ray."""

    def __init__(self, run: str, stage: str) -> None:
        self._tags = {"run": _tag(run), "stage": _tag(stage)}
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, tuple[Gauge, Callable[[], float]]] = {}
        self._closing = threading.Event()

    def count(self, name: str, amount: float = 1, **tags: str) -> None:
        """Add to a counter of `COUNTERS`; the amount may be 0."""
        if name not in self._counters:
            description, extra_tags = COUNTERS[name]
            self._counters[name] = Counter(name, description, (*_TAGS, *extra_tags)).set_default_tags(self._tags)
        if amount > 0:
            self._counters[name].inc(amount, {tag: _tag(value) for tag, value in tags.items()})

    def watch(self, name: str, read: Callable[[], float]) -> None:
        """Let a gauge of `GAUGES` show what `read` returns, from now on."""
        if not self._gauges:
            threading.Thread(target=self._refresh, name="cluster metrics", daemon=True).start()
        gauge = self._gauges[name][0] if name in self._gauges else Gauge(name, GAUGES[name], _TAGS)
        self._gauges = {**self._gauges, name: (gauge, read)}  # a new dict: the thread may be iterating over the old

    def watch_training(self, metrics: dict[str, Any]) -> None:
        """Let the gauges of training show a step's metrics, as in `metrics.jsonl`."""
        for name in _TRAINING:
            if name in metrics:
                self.watch(f"ossft_train_{name}", partial(float, metrics[name]))

    def close(self) -> None:
        """Stop refreshing the gauges, which then disappear."""
        self._closing.set()

    def _refresh(self) -> None:
        """Set all gauges repeatedly: Ray drops one that is not set within two of its reports (20 s)."""
        while not self._closing.wait(_REFRESH_SECONDS):
            for gauge, read in self._gauges.values():
                gauge.set(read(), self._tags)


def _tag(text: str) -> str:
    r"""Text as the value of a tag. Ray takes only ASCII, so other characters are escaped.

    >>> _tag("é")
    '\\xe9'
    """
    printable = "".join(character if character.isprintable() else " " for character in text[:_MAX_TAG])
    return printable.encode("ascii", "backslashreplace").decode()
