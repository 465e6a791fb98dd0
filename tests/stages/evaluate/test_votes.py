"""Votes of an evaluation with a scripted policy and real verifiers, on Ray."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray.cloudpickle

from ossft_ray.common.storage import Folder
from ossft_ray.config import resolve
from ossft_ray.stages.evaluate.accuracies import model_accuracies
from ossft_ray.stages.evaluate.stage import evaluate
from tests.stages import scripted
from tests.stages.scripted import FixedEvaluateWorker, FixedPolicy

ray.cloudpickle.register_pickle_by_value(scripted)
NUM_SAMPLES = len(FixedPolicy.ANSWERS)


@pytest.mark.usefixtures("ray_cluster")
def test_answers_that_the_verifier_takes_as_equal_share_a_vote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1/2 in three notations beats 3, 3 and 4; by text, 3 would win."""
    monkeypatch.setattr("ossft_ray.stages.evaluate.sampling.EvaluateWorker", FixedEvaluateWorker)
    golds = {"half.jsonl": "0.50", "three.jsonl": "3", "neither.jsonl": "7"}
    for name, gold in golds.items():
        (tmp_path / name).write_text(json.dumps({"id": "p", "problem": "What is it?", "answer": gold}))
    experiment = resolve(
        {
            "run": {"output": str(tmp_path / "run")},
            "policy": {"model": "playground"},
            "data": {"path": "none.jsonl"},
            "evaluate": {
                "benchmarks": [str(tmp_path / name) for name in golds],
                "num_samples": NUM_SAMPLES,
                "cache": "",
            },
        }
    )
    results = {name.rpartition("-")[2]: result for name, result in evaluate(experiment)["base"].items()}
    assert {name: result["maj"] for name, result in results.items()} == {
        "half.jsonl": 1.0,
        "three.jsonl": 0.0,
        "neither.jsonl": 0.0,
    }
    assert results["three.jsonl"]["avg"] == pytest.approx(2 / 6)
    votes = {
        part.parent.name.rpartition("-")[2]: pq.read_table(part)["vote"].to_pylist()
        for part in (tmp_path / "run" / "evaluate" / "base").rglob("part-*.parquet")
    }
    assert votes["half.jsonl"] == [0, 1, 0, 3, 0, 1] == votes["three.jsonl"]
    assert votes["neither.jsonl"] == [0, 1, 2, 3, 4, 1], "no outcome to decide, so nothing is compared"

    # Samples stored before votes existed vote by their texts.
    (part,) = (tmp_path / "run" / "evaluate" / "base").glob("*half.jsonl/part-*.parquet")
    pq.write_table(pq.read_table(part).drop_columns("vote"), part)
    older = model_accuracies(Folder.at(str(part.parent.parent)), [part.parent.name])
    assert older[part.parent.name]["maj"] == 0.0
