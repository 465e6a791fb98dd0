"""The forecast of a run: a probe's measurements, scaled up in proportion. Pure functions of values.

A stage costs its start-up each time it starts, plus time in proportion to its work. Nothing here models how an engine
speeds up as its batch fills, so a probe of few problems overestimates the time for sampling.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from scipy.stats import binomtest

from ossft_ray.common.types import count_origins
from ossft_ray.config import Train

DROPPED = "dropped"  # the fate of a problem that keeps no solution at all


@dataclass(frozen=True)
class Timing:
    """One stage of the probe, in seconds."""

    startup: float  # loading and all else that does not grow with the work
    working: float
    work: float  # how much was done in `working` seconds

    def scaled_to(self, work: float) -> float:
        """Seconds for another amount of work, start-up included."""
        return self.startup + self.working * work / self.work


@dataclass(frozen=True)
class Measurement:
    """What a probe measured on its sample of problems. Sizes are in bytes."""

    fates: dict[str, int]  # problems by the origin of the kept solution, and those that were dropped
    attempts: int
    generated_tokens: int
    prompt_tokens: int
    examples: int  # that fit `[train] max_length`
    too_long: int  # examples that do not
    ingest_seconds: float  # for reading the whole input
    # rewrite: attempts of each policy; score: problems; train: examples. Only rewrite if no example fits.
    timings: dict[str, Timing]
    rows_bytes: int  # of rewriting and scoring
    checkpoint_bytes: int
    model_bytes: int
    policy_memory: int  # the peak of one policy: on its GPUs, or in main memory without GPUs
    trainer_memory: int  # the peak of one training worker, likewise

    @property
    def num_problems(self) -> int:
        return sum(self.fates.values())


@dataclass(frozen=True)
class RunPlan:
    """The size of the run, and the resources that it will use."""

    num_problems: int
    num_policies: int
    problems_in_flight: int  # of one policy
    policy_devices: float  # GPUs of all policies, or machines on a cluster without GPUs
    train_devices: float
    device: str  # "GPU" or "machine"
    train: Train
    checkpoints_at_once: int
    evaluated_models: int
    samples_per_model: int  # over all benchmarks
    rounds: int
    free_bytes: int | None  # where the output goes; None for an object store


@dataclass(frozen=True)
class StageForecast:
    """One stage of one round."""

    name: str
    seconds: float
    devices: float

    @property
    def hours(self) -> float:
        """Device hours."""
        return self.seconds * self.devices / 3600


@dataclass(frozen=True)
class Forecast:
    """What to expect of the run: examples, steps and stages of one round; disk, seconds and hours of all rounds."""

    measured: Measurement
    plan: RunPlan
    funnel: dict[str, tuple[float, float]]  # 95% interval of the share of problems with this fate
    scale: float  # the run's problems for each problem of the probe
    examples: int
    steps: int
    stages: list[StageForecast]
    disk: dict[str, int]  # bytes at the peak

    @property
    def seconds(self) -> float:
        return self.plan.rounds * sum(stage.seconds for stage in self.stages)

    @property
    def hours(self) -> float:
        """Device hours."""
        return self.plan.rounds * sum(stage.hours for stage in self.stages)


def forecast(measured: Measurement, plan: RunPlan) -> Forecast:
    """Scale a probe up to the run. A stage that the probe could not measure is left out."""
    scale = plan.num_problems / measured.num_problems
    examples = round(scale * measured.examples * (1 - plan.train.holdout))
    steps = plan.train.epochs * math.ceil(examples / plan.train.global_batch_size)
    num_checkpoints = min(math.ceil(steps / plan.train.checkpoint_every), plan.checkpoints_at_once)
    disk = {
        "rewritten and scored rows": plan.rounds * round(scale * measured.rows_bytes),
        "checkpoints": plan.rounds * num_checkpoints * measured.checkpoint_bytes,
        "model": plan.rounds * measured.model_bytes,
    }
    stages = _stages(measured, plan, scale * measured.attempts, examples)
    return Forecast(measured, plan, funnel(measured.fates), scale, examples, steps, stages, disk)


def funnel(fates: Mapping[str, int]) -> dict[str, tuple[float, float]]:
    """Wilson's 95% interval for the share of each origin, and of dropped problems.

    It treats the sample as drawn from infinitely many problems, so it is too wide where most problems were sampled.
    """
    num = sum(fates.values())
    tests = {fate: binomtest(fates.get(fate, 0), num) for fate in (*count_origins(fates), DROPPED)}
    intervals = {fate: test.proportion_ci(confidence_level=0.95, method="wilson") for fate, test in tests.items()}
    return {fate: (float(interval.low), float(interval.high)) for fate, interval in intervals.items()}


def _stages(measured: Measurement, plan: RunPlan, attempts: float, examples: int) -> list[StageForecast]:
    sampling, num_policies = measured.timings["rewrite"], plan.num_policies
    work = {"rewrite": attempts / num_policies, "score": plan.num_problems, "train": plan.train.epochs * examples}
    seconds = {stage: timing.scaled_to(work[stage]) for stage, timing in measured.timings.items()}
    seconds["rewrite"] += measured.ingest_seconds
    if measured.attempts and plan.samples_per_model:  # a sample takes as long as an attempt
        seconds["evaluate"] = plan.evaluated_models * sampling.scaled_to(plan.samples_per_model / num_policies)
    devices = {"rewrite": plan.policy_devices, "evaluate": plan.policy_devices}
    return [StageForecast(name, value, devices.get(name, plan.train_devices)) for name, value in seconds.items()]
