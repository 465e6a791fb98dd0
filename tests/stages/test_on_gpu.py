"""Rewriting on a GPU: `make test ARGS="-m gpu"` (which replaces the default selection)."""

from pathlib import Path

import pytest

from ossft_ray.stages.rewrite.stage import rewrite
from tests.stages.scripted import experiment, rows_by_id

pytestmark = pytest.mark.gpu


def test_rows_do_not_depend_on_the_batch_with_batch_invariance(ray_cluster: None, tmp_path: Path) -> None:
    """A beta feature of vLLM: with the same seeds, few problems at a time give the same rows as hundreds at once."""
    runs = [
        experiment(
            str(tmp_path / name),
            200,
            policy={"model": "playground", "dtype": "bfloat16", "batch_invariant": True},
            rewrite={"self_alignment": {"max_tokens": 96}, "guided_alignment": {"max_tokens": 96}},
            resources={"problems_in_flight": in_flight},
        )
        for name, in_flight in (("many", 400), ("few", 2))
    ]
    for run in runs:
        rewrite(run)
    many, few = map(rows_by_id, runs)
    assert many == few
