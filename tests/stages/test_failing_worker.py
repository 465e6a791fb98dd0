"""One of two workers runs out of memory while the other waits for it: the stage ends with that worker's error."""

import importlib
import time
from pathlib import Path

import pytest

from ossft_ray.common.errors import JobError
from ossft_ray.config import resolve
from tests.stages.failing_worker import WorkerOneFails
from tests.stages.rows import write_examples


@pytest.mark.engine
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    "stage, message",
    [
        ("score", "score: out of memory in part-00000.parquet"),
        ("train", "train: out of memory in step 1"),
        ("score", "score: out of memory in loading the policy"),
        ("train", "train: out of memory in loading the policy"),
    ],
)
def test_the_error_of_one_worker_ends_the_stage(
    stage: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_examples(str(tmp_path), 16)
    settings = {"precision": "fp32", "global_batch_size": 8, "max_length": 512, "loss": "sft", "zero_stage": 3}
    experiment = resolve(
        {
            "run": {"output": str(tmp_path)},
            "policy": {"model": "playground"},
            "data": {"path": "unused.jsonl"},
            "train": settings,
            "resources": {"num_train_workers": 2},
        }
    )
    module = importlib.import_module(f"ossft_ray.stages.{stage}.stage")
    monkeypatch.setattr(
        module, "run_worker", WorkerOneFails(module.run_worker, "loading" in message, tmp_path / "attempts")
    )
    began = time.monotonic()
    with pytest.raises(JobError, match=message):
        getattr(module, stage)(experiment)
    assert time.monotonic() - began < 600  # worker 0 would wait for half an hour
    assert (tmp_path / "attempts").read_text() == "x", "a worker that is restarted would meet it again"
