"""A step's metrics for TensorBoard and the cluster's monitoring, and for W&B and MLflow on demand."""

import importlib
import os
import tempfile
from collections.abc import Callable
from typing import Any

from pyarrow import fs
from tensorboardX import SummaryWriter

from ossft_ray.common.errors import InputError
from ossft_ray.common.secrets import split_password
from ossft_ray.common.storage import Folder
from ossft_ray.config import Experiment
from ossft_ray.distributed.cluster_metrics import ClusterMetrics

_FLUSH_SECONDS = 10
Log = Callable[[dict[str, float], int], None]
Close = Callable[[], None]


class Tracking:
    """Where worker 0 sends metrics in addition to `metrics.jsonl`."""

    def __init__(self, experiment: Experiment, folder: Folder, after_step: int) -> None:
        """Begin, or resume after a step. Raises InputError if a named tracker is not installed."""
        self._target = folder / "tensorboard"
        self._staging = None if self._target.local_path is not None else tempfile.TemporaryDirectory()
        local = str(self._target.local_path) if self._staging is None else self._staging.name
        # purge_step hides the steps that a killed run made after its last checkpoint
        purge_step = after_step + 1 if after_step else None
        self._tensorboard = SummaryWriter(local, purge_step=purge_step, flush_secs=_FLUSH_SECONDS)
        self._cluster = ClusterMetrics(experiment.run.output, "train")
        self._opened: list[tuple[Log, Close]] = [_OPEN[name](experiment) for name in experiment.train.tracking]

    def log(self, metrics: dict[str, Any], flush: bool = False) -> None:
        self._cluster.watch_training(metrics)
        figures = {key: value for key, value in metrics.items() if isinstance(value, int | float) and key != "step"}
        for key, value in figures.items():
            self._tensorboard.add_scalar(key, value, metrics["step"])
        for log, _ in self._opened:
            log(figures, metrics["step"])
        if flush:
            self._tensorboard.flush()
            self._upload()

    def close(self) -> None:
        """Write what the trackers still hold: the process may be killed as soon as it is idle."""
        self._cluster.close()
        self._tensorboard.close()
        self._upload()
        if self._staging is not None:
            self._staging.cleanup()
        for _, close in self._opened:
            close()

    def _upload(self) -> None:
        if self._staging is not None:
            fs.copy_files(self._staging.name, self._target.path, destination_filesystem=self._target.filesystem)


def _wandb(experiment: Experiment) -> tuple[Log, Close]:
    run = _import("wandb").init(
        project="ossft_ray", name=experiment.run.output, config=experiment.model_dump(mode="json"), resume="allow"
    )
    return lambda figures, step: run.log(figures, step=step, commit=True), run.finish


def _mlflow(experiment: Experiment) -> tuple[Log, Close]:
    mlflow = _import("mlflow")
    _hide_password()
    mlflow.set_experiment("ossft_ray")
    mlflow.start_run(run_name=experiment.run.output)
    mlflow.log_params({f"train.{key}": value for key, value in experiment.train.model_dump(mode="json").items()})
    return lambda figures, step: mlflow.log_metrics(figures, step=step), mlflow.end_run


_OPEN: dict[str, Callable[[Experiment], tuple[Log, Close]]] = {"wandb": _wandb, "mlflow": _mlflow}


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"[train] tracking: {name} is not installed; pip install {name}") from error


def _hide_password() -> None:
    """Give MLflow the password in a separate variable: MLflow writes its tracking URI into errors and logs."""
    uri, user, password = split_password(os.environ.get("MLFLOW_TRACKING_URI", ""))
    if password is not None:
        os.environ["MLFLOW_TRACKING_URI"] = uri
        os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"] = user or "", password
