"""A training group that has lost too many workers starts again if they wrote something new, and fails if not."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import NodeDiedError
from ray.train.v2.api.exceptions import WorkerGroupError

from ossft_ray.common.errors import JobError
from ossft_ray.common.storage import Folder
from ossft_ray.distributed import train_group
from ossft_ray.distributed.placement import ResourcePlan
from tests.stages.scripted import experiment


def run_group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fits: list[int | None]) -> list[int]:
    """Run a group; `fits` says how many parts each fit writes before it is lost, or None if it succeeds.

    Returns the number of parts written before each fit.
    """
    left, written = list(fits), [0]

    class Trainer:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def fit(self) -> Any:
            parts = left.pop(0)
            if parts is None:
                return SimpleNamespace(return_value=None)
            written.append(written[-1] + parts)
            raise WorkerGroupError("rank 0", {0: NodeDiedError("a node was lost")})

    monkeypatch.setattr(train_group, "TorchTrainer", Trainer)
    monkeypatch.setattr(train_group, "plan_resources", lambda resources: ResourcePlan(1, 0, 1, 1))
    monkeypatch.setattr(train_group, "CapacityWatch", lambda *_: SimpleNamespace(poll=lambda count: None))
    no_error = SimpleNamespace(failure=SimpleNamespace(remote=lambda: None))
    monkeypatch.setattr(train_group, "on_driver_node", lambda actor_class: no_error)
    monkeypatch.setattr(train_group.ray, "get", lambda reference: reference)
    settings, folder = experiment(str(tmp_path / "run")), Folder.at(str(tmp_path / "train"))
    train_group.run_group(
        lambda config: None, {}, settings, folder, "workers", poll=lambda: None, written=lambda: written[-1]
    )
    return written


@pytest.mark.parametrize("fits", [[None], [1, None], [3, 1, 1, 2, None]])
def test_a_lost_fit_starts_again_if_it_wrote_parts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fits: list[int | None]
) -> None:
    assert len(run_group(monkeypatch, tmp_path, fits)) == len(fits)


@pytest.mark.parametrize("fits", [[0], [2, 0]])
def test_the_stage_fails_if_nothing_was_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fits: list[int | None]
) -> None:
    with pytest.raises(
        JobError, match=r"train: worker 0 failed: .*a node was lost.*to resume from the newest checkpoint"
    ):
        run_group(monkeypatch, tmp_path, [*fits, None])


@pytest.mark.parametrize("gpus, offload, threads", [([], "none", 4), ([0], "none", None), ([0], "optimizer", 4)])
def test_workers_on_the_cpu_share_its_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gpus: list[int], offload: str, threads: int | None
) -> None:
    context = SimpleNamespace(get_world_rank=lambda: 3, get_world_size=lambda: 4, get_local_world_size=lambda: 2)
    monkeypatch.setattr(train_group.ray.train, "get_context", lambda: context)
    monkeypatch.setattr(train_group.ray, "get_gpu_ids", lambda: gpus)
    monkeypatch.setattr(train_group.os, "sched_getaffinity", lambda process: range(8))
    given: list[int] = []
    monkeypatch.setattr(train_group.torch, "set_num_threads", given.append)
    settings = experiment(str(tmp_path))
    offloading = settings.model_copy(update={"train": settings.train.model_copy(update={"offload": offload})})
    assert train_group.begin_worker(offloading, "train", verbose=True) == 3
    assert given == ([] if threads is None else [threads])
