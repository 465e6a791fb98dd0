"""A probe's measurements become a run's costs: each figure against arithmetic by hand."""

from dataclasses import replace

import pytest

from ossft_ray.stages.check.budget import (
    Bytes,
    Estimate,
    Measured,
    Plan,
    ProbedProblem,
    Sampling,
    Steps,
    estimate,
    mean_batch,
)
from ossft_ray.stages.check.estimate import Interval, total
from ossft_ray.stages.check.throughput import StepCost

SOLVED = ProbedProblem("self", {"self": True}, 100, 1, 100, 1, 0, 100)
GUIDED = ProbedProblem("guided", {"self": False, "guided": True}, 120, 9, 1000, 1, 0, 80)
EXPERT = ProbedProblem("expert", {"self": False, "guided": False}, 140, 12, 1500, 1, 0, 60)
LONG = ProbedProblem("expert", {"self": False, "guided": False}, 140, 12, 1400, 0, 1, 0)

MEASURED = Measured(
    population=40,
    problems=[SOLVED, GUIDED, EXPERT, LONG],
    intake_seconds=3.0,
    sampling=Sampling(20.0, 40.0, 1, 3400, 4400, StepCost(0.05, 0.002)),
    score_startup_seconds=15.0,
    score_seconds=6.0,
    steps=Steps(25.0, [5.0, 2.0, 4.0], [100, 100, 100], 2.0),
    bytes=Bytes(4000, 400, 10**9, 10**8, 5, 7),
)
PLAN = Plan(
    num_policies=1,
    policy_devices=1,
    train_devices=2,
    in_flight=25,
    epochs=3,
    global_batch_size=16,
    train_share=1.0,
    checkpoint_every=2,
    checkpoints_kept=2,
    evaluated_samples=0,
    evaluated_models=2,
    rounds=1,
    device="GPU",
)


def seconds_of(found: Estimate) -> dict[str, Interval]:
    return {stage.name: stage.seconds for stage in found.stages}


def test_counts_are_scaled_to_all_problems() -> None:
    found = estimate(MEASURED, PLAN)
    assert found.generated_tokens == total([100, 1000, 1500, 1400], 40)
    assert found.generated_tokens.value == 40_000
    assert found.attempts.value == 340
    assert found.prompt_tokens.value == pytest.approx(34_000)
    assert (found.examples.value, found.too_long.value, found.response_tokens.value) == (30, 10, 2400)
    assert found.steps.value == 3 * 2  # 30 examples in batches of 16, three epochs
    assert {origin: (count, problems.value) for origin, (count, problems) in found.funnel.items()} == {
        "self": (1, 10),
        "guided": (1, 10),
        "expert": (2, 20),
    }


def test_pass_rates_are_those_of_first_draws() -> None:
    found = estimate(MEASURED, PLAN).first_draws
    assert {stage: (count, num, share.value) for stage, (count, num, share) in found.items()} == {
        "self": (1, 4, 0.25),
        "guided": (1, 3, 1 / 3),
    }


def test_rewriting_pays_full_batches_for_what_the_probe_did_not_draw() -> None:
    seconds = seconds_of(estimate(MEASURED, PLAN))["rewrite"]
    further, fixed = 40_000 - 4_000, 3.0 + 20.0 + 40.0
    assert seconds.value == pytest.approx(fixed + further * (0.002 + 0.05 / 25))
    tokens = estimate(MEASURED, PLAN).generated_tokens
    assert seconds.low == pytest.approx(fixed + (tokens.low - 4_000) * 0.002)
    assert seconds.high == pytest.approx(fixed + (tokens.high - 4_000) * 40.0 / 4400)  # as slow as the probe


@pytest.mark.parametrize(
    "cost, in_flight, rate",
    [
        (StepCost(0.05, 0.002), 50, 0.003),
        (StepCost(0.05, 0.002), 1, 40.0 / 4400),  # no slower than the probe was
        (StepCost(0.0, 0.004), 50, 0.004),
    ],
)
def test_a_token_costs_what_the_batch_makes_it(cost: StepCost, in_flight: int, rate: float) -> None:
    measured = replace(MEASURED, sampling=replace(MEASURED.sampling, cost=cost))
    seconds = seconds_of(estimate(measured, replace(PLAN, in_flight=in_flight)))["rewrite"]
    assert seconds.value == pytest.approx(63.0 + 36_000 * rate)
    assert seconds.low <= seconds.value <= seconds.high


@pytest.mark.parametrize("policies, expected", [(2, 63 + 16_000 * 0.004), (8, 63 + 1_000 * 0.004), (20, 63)])
def test_policies_share_the_tokens(policies: int, expected: float) -> None:
    found = estimate(MEASURED, replace(PLAN, num_policies=policies, policy_devices=policies))
    assert seconds_of(found)["rewrite"].value == pytest.approx(expected)
    assert found.stages[0].hours.value == pytest.approx(expected * policies / 3600)


def test_training_takes_its_tokens_its_checkpoints_and_its_start() -> None:
    found = estimate(MEASURED, PLAN)
    seconds = seconds_of(found)["train"]
    # a warm-up of 5 s where a step takes 3; three checkpoints of 2 s; 0.03 s a token, from 0.02 to 0.04
    assert seconds.value == pytest.approx(25 + 2 + 3 * 2 + 3 * 2400 * 0.03)
    assert seconds.low < 25 + 2 + 3 * 2 + 3 * 2400 * 0.02
    assert seconds.high > 25 + 2 + 3 * 2 + 3 * 2400 * 0.04
    assert seconds_of(found)["score"].value == pytest.approx(15 + 6 * 10)


def test_the_whole_is_the_sum_of_its_stages_and_rounds() -> None:
    one, two = estimate(MEASURED, PLAN), estimate(MEASURED, replace(PLAN, rounds=2))
    assert one.seconds.value == pytest.approx(sum(stage.seconds.value for stage in one.stages))
    hours = sum(stage.seconds.value * (1 if stage.name == "rewrite" else 2) / 3600 for stage in one.stages)
    assert one.hours.value == pytest.approx(hours)
    assert two.hours.high == pytest.approx(2 * one.hours.high)
    assert two.disk["model"] == 2 * one.disk["model"]


@pytest.mark.parametrize("every, checkpoints", [(2, 3), (3, 2), (100, 1)])
def test_disk_holds_a_checkpoint_more_than_is_kept(every: int, checkpoints: int) -> None:
    disk = estimate(MEASURED, replace(PLAN, checkpoint_every=every)).disk
    assert disk == {"examples and scores": 44_000, "checkpoints": checkpoints * 10**9, "model": 10**8}


def test_evaluation_is_reckoned_from_first_draws() -> None:
    plan = replace(PLAN, evaluated_samples=1000, evaluated_models=3)
    seconds = seconds_of(estimate(MEASURED, plan))["evaluate"]
    assert seconds.value == pytest.approx(3 * (20 + 1000 * 125 * 0.004))
    assert seconds.low < seconds.value < seconds.high
    assert estimate(MEASURED, PLAN).missing == ["evaluate: no benchmarks"]


def test_a_sample_without_draws_or_examples_says_what_is_missing() -> None:
    nothing = ProbedProblem("dropped", {}, None, 0, 0, 0, 1, 0)
    measured = replace(
        MEASURED,
        problems=[nothing] * 2,
        sampling=Sampling(20.0, 0.0, 1, 0, 0, None),
        steps=None,
    )
    found = estimate(measured, replace(PLAN, evaluated_samples=10))
    assert seconds_of(found) == {"rewrite": Interval.exactly(23.0)}
    assert found.missing == [
        "score and train: nothing of the sample can be trained on",
        "evaluate: the sample drew nothing",
    ]
    assert found.funnel["dropped"][0] == 2


def test_holdout_trains_on_less() -> None:
    whole, part = estimate(MEASURED, PLAN), estimate(MEASURED, replace(PLAN, train_share=0.5))
    assert part.examples.value == whole.examples.value / 2
    assert part.steps.value == 3


def test_a_probe_of_everything_leaves_only_speeds_uncertain() -> None:
    found = estimate(replace(MEASURED, population=4), PLAN)
    assert found.generated_tokens == Interval.exactly(4000)
    assert seconds_of(found)["rewrite"] == Interval.exactly(63.0)


@pytest.mark.parametrize(
    "arguments, expected", [((1280, 2000.0, 1024), 1024), ((1280, 240.0, 1024), 240), ((64, 0.5, 9), 1)]
)
def test_mean_batch(arguments: tuple[int, float, int], expected: int) -> None:
    assert mean_batch(*arguments) == expected
