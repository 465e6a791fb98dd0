"""What will a run cost? A probe's measurements, and a plan of the run, become tokens, hours, memory and disk.

**Rewriting.** The probe's own time, and for each further token what a token costs in the run's fuller batches
(`throughput.py`). The interval's low end supposes batches so full that only the cost of each request is left, its high
end that fuller batches save nothing; both with the interval of the tokens.

**Scoring and training** take as long as their tokens: seconds a token from the probe, the slowest and the fastest timed
step for the ends. Starting up, loading, checkpoints and exporting are counted apart, as often as they happen.

**Evaluation** is reckoned, not measured: as if benchmarks' responses were as long as the sample's first draws.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ossft_ray.common.types import ORIGINS
from ossft_ray.stages.check.estimate import Interval, share, total
from ossft_ray.stages.check.throughput import StepCost

DROPPED = "dropped"


@dataclass(frozen=True)
class ProbedProblem:
    """What became of one problem of the sample."""

    origin: str  # of ORIGINS, or DROPPED
    first_draws: dict[str, bool]  # by stage that was reached: was the first response right
    first_tokens: int | None  # of the first draw without help; None where there was none
    num_attempts: int
    generated_tokens: int
    num_examples: int  # rows to train on
    num_too_long: int  # rows that training sets aside
    response_tokens: int  # of the rows to train on


@dataclass(frozen=True)
class Sampling:
    """Rewriting as the probe did it."""

    startup_seconds: float  # until the engines were ready, and from their last response to their end
    sampling_seconds: float
    num_policies: int
    prompt_tokens: int
    sampled_tokens: int  # those that were drawn in vain too
    cost: StepCost | None  # None where nothing was sampled


@dataclass(frozen=True)
class Steps:
    """Training as the probe did it; the first step is a warm-up."""

    startup_seconds: float
    step_seconds: list[float]
    step_tokens: list[int]  # of responses
    checkpoint_seconds: float

    @property
    def warm_up_seconds(self) -> float:
        """What the first step took beyond a step's usual time for as many tokens."""
        return max(0.0, self.step_seconds[0] - self.seconds_per_token.value * self.step_tokens[0])

    @property
    def seconds_per_token(self) -> Interval:
        """The mean over all timed steps, and the fastest and the slowest of them."""
        timed = list(zip(self.step_seconds, self.step_tokens, strict=True))
        timed = timed[1:] or timed
        rates = [seconds / tokens for seconds, tokens in timed]
        return Interval(sum(s for s, _ in timed) / sum(t for _, t in timed), min(rates), max(rates))


@dataclass(frozen=True)
class Bytes:
    """Disk and memory that the probe took."""

    examples: int
    scores: int
    checkpoint: int
    model: int
    policy_memory: int  # the peak of one policy: on its GPUs, else of its processes
    train_memory: int  # the peak of one training worker: on its GPU, else of its process


@dataclass(frozen=True)
class Measured:
    """All that a probe brings home."""

    population: int  # usable problems
    problems: list[ProbedProblem]
    intake_seconds: float  # for reading the whole input
    sampling: Sampling
    score_startup_seconds: float
    score_seconds: float
    steps: Steps | None  # None where nothing of the sample could be trained on
    bytes: Bytes


@dataclass(frozen=True)
class Plan:
    """What the run will do with how much."""

    num_policies: int
    policy_devices: float  # GPUs of all policies, or machines where there are no GPUs
    train_devices: float
    in_flight: int  # requests to a policy at once
    epochs: int
    global_batch_size: int
    train_share: float  # of examples that are not held out
    checkpoint_every: int
    checkpoints_kept: int
    evaluated_samples: int  # over all benchmarks, of one model
    evaluated_models: int
    rounds: int
    device: str  # GPU or machine


@dataclass(frozen=True)
class StageCost:
    """One stage of one round."""

    name: str
    seconds: Interval
    devices: float

    @property
    def hours(self) -> Interval:
        """Device hours."""
        return self.seconds.times(self.devices / 3600)


@dataclass(frozen=True)
class Estimate:
    """What to expect of the whole run; counts of one round, and costs and disk of all."""

    population: int
    sampled: int
    first_draws: dict[str, tuple[int, int, Interval]]  # by stage: right, of how many, and the share
    funnel: dict[str, tuple[int, Interval]]  # by origin: in the sample, and of all problems
    attempts: Interval
    generated_tokens: Interval
    prompt_tokens: Interval
    examples: Interval
    too_long: Interval
    response_tokens: Interval
    steps: Interval
    stages: list[StageCost]
    missing: list[str]  # stages that could not be reckoned, each with the reason
    rounds: int
    seconds: Interval
    hours: Interval
    device: str  # that the hours are of
    disk: dict[str, float]  # bytes, at most
    policy_memory: int
    train_memory: int


def estimate(measured: Measured, plan: Plan) -> Estimate:
    """Scale a probe up to the run that it was made for."""
    problems, population = measured.problems, measured.population

    def sum_of(name: str) -> Interval:
        return total([float(getattr(problem, name)) for problem in problems], population)

    attempts, generated = sum_of("num_attempts"), sum_of("generated_tokens")
    examples = sum_of("num_examples").times(plan.train_share)
    steps = _steps(examples, plan)
    stages, missing = _stages(measured, plan, generated, sum_of("response_tokens"), steps)
    rounds = plan.rounds
    return Estimate(
        population=population,
        sampled=len(problems),
        first_draws=_first_draws(problems, population),
        funnel=_funnel(problems, population),
        attempts=attempts,
        generated_tokens=generated,
        prompt_tokens=attempts.times(measured.sampling.prompt_tokens / max(1, sum(p.num_attempts for p in problems))),
        examples=examples,
        too_long=sum_of("num_too_long"),
        response_tokens=sum_of("response_tokens"),
        steps=steps,
        stages=stages,
        missing=missing,
        rounds=rounds,
        seconds=_sum([stage.seconds for stage in stages]).times(rounds),
        hours=_sum([stage.hours for stage in stages]).times(rounds),
        device=plan.device,
        disk={name: rounds * size for name, size in _disk(measured, plan, steps).items()},
        policy_memory=measured.bytes.policy_memory,
        train_memory=measured.bytes.train_memory,
    )


def _first_draws(problems: Sequence[ProbedProblem], population: int) -> dict[str, tuple[int, int, Interval]]:
    """Later draws are made only where earlier ones failed, so only first ones tell a pass rate."""
    found = {}
    for stage in ("self", "guided"):
        outcomes = [problem.first_draws[stage] for problem in problems if stage in problem.first_draws]
        if outcomes:
            of_all = max(len(outcomes), round(population * len(outcomes) / len(problems)))
            found[stage] = (sum(outcomes), len(outcomes), share(sum(outcomes), len(outcomes), of_all))
    return found


def _funnel(problems: Sequence[ProbedProblem], population: int) -> dict[str, tuple[int, Interval]]:
    counts = {name: sum(problem.origin == name for problem in problems) for name in (*ORIGINS, DROPPED)}
    return {
        name: (count, share(count, len(problems), population).times(population))
        for name, count in counts.items()
        if count or name != DROPPED
    }


def _steps(examples: Interval, plan: Plan) -> Interval:
    value, low, high = (
        plan.epochs * math.ceil(end / plan.global_batch_size) if math.isfinite(end) else end
        for end in (examples.value, examples.low, examples.high)
    )
    return Interval(value, low, high)


def _stages(
    measured: Measured, plan: Plan, generated: Interval, response_tokens: Interval, steps: Interval
) -> tuple[list[StageCost], list[str]]:
    missing = []
    rewriting = _rewriting_seconds(measured, plan, generated)
    stages = [StageCost("rewrite", rewriting, plan.policy_devices)]
    sampled_tokens = sum(problem.response_tokens for problem in measured.problems)
    if measured.steps is None or not sampled_tokens:
        missing.append("score and train: nothing of the sample can be trained on")
    else:
        scoring = response_tokens.times(measured.score_seconds / sampled_tokens)
        scoring += Interval.exactly(measured.score_startup_seconds)
        stages.append(StageCost("score", scoring, plan.train_devices))
        training = _training_seconds(measured.steps, plan, response_tokens, steps)
        stages.append(StageCost("train", training, plan.train_devices))
    evaluating = _evaluation_seconds(measured, plan)
    if evaluating is not None:
        stages.append(StageCost("evaluate", evaluating, plan.policy_devices))
    else:
        missing.append("evaluate: " + ("the sample drew nothing" if plan.evaluated_samples else "no benchmarks"))
    return stages, missing


def _rewriting_seconds(measured: Measured, plan: Plan, generated: Interval) -> Interval:
    sampling = measured.sampling
    start = Interval.exactly(measured.intake_seconds + sampling.startup_seconds)
    rate = _seconds_per_token(sampling, plan.in_flight)
    if rate is None:
        return start
    drawn = sum(problem.generated_tokens for problem in measured.problems) / sampling.num_policies
    further = Interval(*(max(0.0, tokens / plan.num_policies - drawn) for tokens in _ends(generated)))
    if generated.value / plan.num_policies < drawn:  # more policies than the probe had, and less for each to do
        return start + Interval.exactly(sampling.sampling_seconds)
    return start + Interval.exactly(sampling.sampling_seconds) + further.times(rate)


def _seconds_per_token(sampling: Sampling, in_flight: float) -> Interval | None:
    """Of one policy with so many requests in flight: as fitted, with no fixed cost left, and as slow as the probe."""
    if sampling.cost is None or not sampling.sampled_tokens:
        return None
    as_probed = sampling.sampling_seconds * sampling.num_policies / sampling.sampled_tokens
    fitted = min(as_probed, sampling.cost.per_token(max(1.0, in_flight)))
    return Interval(fitted, min(fitted, sampling.cost.each), as_probed)


def _training_seconds(probed: Steps, plan: Plan, response_tokens: Interval, steps: Interval) -> Interval:
    fixed = Interval.exactly(probed.startup_seconds + probed.warm_up_seconds)
    checkpoints = Interval(*(_num_checkpoints(end, plan) * probed.checkpoint_seconds for end in _ends(steps)))
    tokens = response_tokens.times(plan.epochs * plan.train_share)
    return fixed + checkpoints + tokens.times(probed.seconds_per_token)


def _num_checkpoints(num_steps: float, plan: Plan) -> float:
    return math.ceil(num_steps / plan.checkpoint_every) if math.isfinite(num_steps) else num_steps


def _evaluation_seconds(measured: Measured, plan: Plan) -> Interval | None:
    lengths = [problem.first_tokens for problem in measured.problems if problem.first_tokens is not None]
    per_model = plan.evaluated_samples / plan.num_policies
    rate = _seconds_per_token(measured.sampling, min(per_model, plan.in_flight))
    if rate is None or not lengths or not per_model:
        return None
    mean = total([float(length) for length in lengths], 10**9).times(1e-9)  # a response of another population
    sampling = mean.times(per_model).times(rate)
    return (sampling + Interval.exactly(measured.sampling.startup_seconds)).times(plan.evaluated_models)


def _disk(measured: Measured, plan: Plan, steps: Interval) -> dict[str, float]:
    """Bytes of one round; examples and scores as the sample has them on the mean."""
    factor, sizes = measured.population / len(measured.problems), measured.bytes
    num_checkpoints = _num_checkpoints(steps.value, plan)
    # a new one is written before the oldest is removed
    at_once = min(num_checkpoints, plan.checkpoints_kept + 1)
    return {
        "examples and scores": factor * (sizes.examples + sizes.scores),
        "checkpoints": at_once * sizes.checkpoint,
        "model": float(sizes.model),
    }


def _ends(interval: Interval) -> tuple[float, float, float]:
    return interval.value, interval.low, interval.high


def _sum(intervals: Sequence[Interval]) -> Interval:
    return sum(intervals, start=Interval.exactly(0.0))


def mean_batch(problems_in_flight: int, problems_per_policy: float, max_sequences: int) -> int:
    """Requests that a policy has in flight for most of a run."""
    return max(1, math.floor(min(problems_in_flight, problems_per_policy, max_sequences)))
