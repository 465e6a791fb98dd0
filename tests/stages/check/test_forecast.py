"""A probe's measurements, scaled up to a run: each figure against arithmetic by hand."""

import random
from dataclasses import replace
from typing import Any

import pytest

from ossft_ray.config import Train
from ossft_ray.stages.check.forecast import Forecast, Measurement, RunPlan, Timing, forecast, funnel

MEASURED = Measurement(
    fates={"self": 1, "guided": 1, "expert": 2, "dropped": 0},
    attempts=34,
    generated_tokens=4000,
    prompt_tokens=3400,
    examples=3,
    too_long=1,
    ingest_seconds=3.0,
    timings={
        "rewrite": Timing(startup=20.0, working=68.0, work=34),
        "score": Timing(startup=15.0, working=6.0, work=4),
        "train": Timing(startup=25.0, working=6.0, work=32),
    },
    rows_bytes=4400,
    checkpoint_bytes=10**9,
    model_bytes=10**8,
    policy_memory=5,
    trainer_memory=7,
)
PLAN = RunPlan(
    num_problems=40,
    num_policies=1,
    problems_in_flight=1280,
    policy_devices=1,
    train_devices=2,
    device="GPU",
    train=Train(epochs=3, global_batch_size=16, checkpoint_every=2),
    checkpoints_at_once=3,
    evaluated_models=2,
    samples_per_model=0,
    rounds=1,
    free_bytes=None,
)
DRAWN_NOTHING = replace(
    MEASURED,
    attempts=0,
    fates={"expert": 0, "dropped": 4},
    examples=0,
    timings={"rewrite": Timing(startup=2.0, working=0.0, work=1.0)},
)


def plan(**changes: Any) -> RunPlan:
    train = {name: changes.pop(name) for name in list(changes) if name in Train.model_fields}
    return replace(PLAN, train=PLAN.train.model_copy(update=train), **changes)


def seconds_of(found: Forecast) -> dict[str, float]:
    return {stage.name: stage.seconds for stage in found.stages}


@pytest.mark.parametrize(
    "changes, examples, steps",
    [
        ({}, 30, 3 * 2),
        ({"epochs": 1}, 30, 2),
        ({"global_batch_size": 30}, 30, 3),
        ({"holdout": 0.5}, 15, 3),
        ({"num_problems": 400}, 300, 3 * 19),
    ],
)
def test_examples_and_steps(changes: dict[str, Any], examples: int, steps: int) -> None:
    found = forecast(MEASURED, plan(**changes))
    assert (found.examples, found.steps) == (examples, steps)


@pytest.mark.parametrize(
    "changes, stage, seconds",
    [
        ({}, "rewrite", 3 + 20 + 10 * 68),
        ({"num_policies": 4}, "rewrite", 3 + 20 + 10 * 68 / 4),
        ({"num_problems": 4}, "rewrite", 3 + 20 + 68),
        ({}, "score", 15 + 10 * 6),
        ({}, "train", 25 + 3 * 30 * 6 / 32),
        ({"epochs": 1}, "train", 25 + 30 * 6 / 32),
        ({"holdout": 0.5}, "train", 25 + 3 * 15 * 6 / 32),
        ({"samples_per_model": 1000}, "evaluate", 2 * (20 + 1000 * 2)),
        ({"samples_per_model": 1000, "num_policies": 4, "evaluated_models": 3}, "evaluate", 3 * (20 + 1000 * 2 / 4)),
        ({"rounds": 5}, "score", 15 + 10 * 6),
    ],
)
def test_a_stage_pays_its_startup_once_and_its_work_in_proportion(
    changes: dict[str, Any], stage: str, seconds: float
) -> None:
    assert seconds_of(forecast(MEASURED, plan(**changes)))[stage] == pytest.approx(seconds)


@pytest.mark.parametrize(
    "measured, samples, stages",
    [
        (MEASURED, 10, ["rewrite", "score", "train", "evaluate"]),
        (MEASURED, 0, ["rewrite", "score", "train"]),
        (DRAWN_NOTHING, 10, ["rewrite"]),
    ],
)
def test_a_stage_that_was_not_measured_is_left_out(measured: Measurement, samples: int, stages: list[str]) -> None:
    found = seconds_of(forecast(measured, plan(samples_per_model=samples)))
    assert list(found) == stages


def test_a_run_that_samples_nothing_still_reads_its_input_and_starts() -> None:
    assert seconds_of(forecast(DRAWN_NOTHING, PLAN)) == {"rewrite": 3 + 2}


def test_totals_are_sums_over_stages_and_rounds() -> None:
    one, two = forecast(MEASURED, PLAN), forecast(MEASURED, plan(rounds=2))
    seconds = seconds_of(one)
    assert one.seconds == pytest.approx(sum(seconds.values()))
    assert one.hours == pytest.approx((seconds["rewrite"] + 2 * (seconds["score"] + seconds["train"])) / 3600)
    assert (two.seconds, two.hours) == (pytest.approx(2 * one.seconds), pytest.approx(2 * one.hours))
    assert two.disk == {name: 2 * size for name, size in one.disk.items()}


@pytest.mark.parametrize("every, num_checkpoints", [(1, 3), (2, 3), (3, 2), (100, 1)])
def test_disk(every: int, num_checkpoints: int) -> None:
    assert forecast(MEASURED, plan(checkpoint_every=every)).disk == {
        "rewritten and scored rows": 44_000,
        "checkpoints": num_checkpoints * 10**9,
        "model": 10**8,
    }


@pytest.mark.parametrize(
    "count, num, low, high",
    [  # R's prop.test without continuity correction
        (10, 20, 0.2992980, 0.7007020),
        (0, 10, 0.0, 0.2775328),
        (10, 10, 0.7224672, 1.0),
    ],
)
def test_funnel(count: int, num: int, low: float, high: float) -> None:
    found = funnel({"self": count, "dropped": num - count})
    assert found.keys() == {"self", "guided", "expert", "dropped"}
    assert found["self"] == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))
    assert found["dropped"] == (pytest.approx(1 - high, abs=1e-6), pytest.approx(1 - low, abs=1e-6))


@pytest.mark.thorough
def test_intervals_have_their_nominal_coverage() -> None:
    rng = random.Random(0)
    held = 0
    for _ in range(1000):
        count = sum(rng.random() < 0.3 for _ in range(48))
        low, high = funnel({"self": count, "expert": 48 - count})["self"]
        held += low <= 0.3 <= high
    assert 930 <= held <= 975
