"""A step's figures for TensorBoard and the cluster's monitoring, always; for W&B and MLflow on demand."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyarrow import fs

from ossft_ray.common.errors import InputError
from ossft_ray.common.secrets import split_password
from ossft_ray.common.storage import Folder
from ossft_ray.config import Experiment
from ossft_ray.distributed.cluster_metrics import ClusterMetrics

TENSORBOARD = "tensorboard"
_FLUSH_SECONDS = 10
Log = Callable[[dict[str, float], int], None]
Close = Callable[[], None]


class Tracking:
    """Where figures go beside `metrics.jsonl`. Worker 0 has one, from when it begins or goes on."""

    def __init__(self, experiment: Experiment, folder: Folder, after_step: int) -> None:
        """Raises InputError if a tracker that is named is not installed."""
        self._target = folder / TENSORBOARD
        self._local = self._target.local_path or Path(tempfile.mkdtemp())
        self._tensorboard = _summary_writer(self._local, after_step)
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
        """Write out what is still in the writers' queues: the process may be killed as soon as it has nothing to do."""
        self._cluster.close()
        self._tensorboard.close()
        self._upload()
        if self._target.local_path is None:
            shutil.rmtree(self._local)
        for _, close in self._opened:
            close()

    def _upload(self) -> None:
        if self._target.local_path is None:
            fs.copy_files(str(self._local), self._target.path, destination_filesystem=self._target.filesystem)


def _summary_writer(folder: Path, after_step: int) -> Any:
    from tensorboardX import SummaryWriter

    # steps that a killed run did beyond its checkpoint are shown once
    return SummaryWriter(str(folder), purge_step=after_step + 1 if after_step else None, flush_secs=_FLUSH_SECONDS)


def _wandb(experiment: Experiment) -> tuple[Log, Close]:
    try:
        import wandb
    except ImportError as error:
        raise InputError("[train] tracking: wandb is not installed; pip install wandb") from error
    run = wandb.init(
        project="ossft_ray", name=experiment.run.output, config=experiment.model_dump(mode="json"), resume="allow"
    )
    return lambda figures, step: run.log(figures, step=step, commit=True), run.finish


def _mlflow(experiment: Experiment) -> tuple[Log, Close]:
    try:
        import mlflow
    except ImportError as error:
        raise InputError("[train] tracking: mlflow is not installed; pip install mlflow") from error
    _hide_password()
    mlflow.set_experiment("ossft_ray")
    mlflow.start_run(run_name=experiment.run.output)
    mlflow.log_params({f"train.{key}": value for key, value in experiment.train.model_dump(mode="json").items()})
    # MLflow allows neither [ nor ( in names, but / it does
    return lambda figures, step: mlflow.log_metrics(figures, step=step), mlflow.end_run


def _hide_password() -> None:
    """MLflow writes its tracking URI into errors and logs; a user and password have variables of their own."""
    uri, user, password = split_password(os.environ.get("MLFLOW_TRACKING_URI", ""))
    if password is not None:
        os.environ["MLFLOW_TRACKING_URI"] = uri
        os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"] = user or "", password


_OPEN: dict[str, Callable[[Experiment], tuple[Log, Close]]] = {"wandb": _wandb, "mlflow": _mlflow}
