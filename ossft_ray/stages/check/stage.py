"""`ossft check`: validate the config, the data, the policy and the benchmarks before anything is spent."""

import heapq
import random
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field

from ossft_ray.common.errors import InputError, brief
from ossft_ray.common.storage import Folder
from ossft_ray.common.types import Problem
from ossft_ray.config import Experiment
from ossft_ray.data.gold_check import gold_pool
from ossft_ray.data.screening import InputCounts, UsableProblem, screen_problems
from ossft_ray.data.seen_problems import ProblemIndex
from ossft_ray.distributed.session import check_output
from ossft_ray.engines.vllm_policy import check_engine_settings
from ossft_ray.method.rewriting import derive_seed
from ossft_ray.method.steps import false_equation
from ossft_ray.run_folder.resolved_run import Run


@dataclass(frozen=True)
class Findings:
    """What `check` found out about the problems, the benchmarks and the policy."""

    counts: InputCounts
    benchmarks: dict[str, int]  # problems by benchmark
    context_length: int
    end_of_turn: str
    seconds: float  # for reading all the problems
    sample: list[Problem] = field(default_factory=list)  # of the usable problems
    wrong_steps: Mapping[str, str] = field(default_factory=dict)  # a false equation of an expert's solution, by problem


def check(run: Experiment | Run, num_sampled: int = 0) -> Findings:
    """Read all that the run will read, without loading a model. The run's seed draws `num_sampled` problems.

    Raises:
        InputError: the first thing that would stop the run; says what, where, and how to fix it.
    """
    run = run if isinstance(run, Run) else Run(run)  # not pinned, because that writes the commit
    experiment = run.experiment
    check_output(experiment.run.output)
    _check_reachable(experiment.run.output)
    check_engine_settings(experiment.policy.engine)
    _check_loss(experiment)
    chat = run.chat
    for other in run.other_models.values():
        _ = other.chat
    benchmarks = {name: len(problems) for name, problems in run.benchmarks.items()}
    counts, began = InputCounts(), time.monotonic()
    rng = random.Random(derive_seed(experiment.run.seed, "probe"))
    with closing(ProblemIndex()) as seen, gold_pool(experiment) as pool:
        items = screen_problems(experiment, chat, seen, counts, pool)
        wrong_steps: dict[str, str] = {}
        usable = (_note_step(item.problem, wrong_steps) for item in items if isinstance(item, UsableProblem))
        # Those with the smallest random keys are a uniform sample. At least one, as all problems must be read.
        sample = heapq.nsmallest(max(1, num_sampled), usable, key=lambda _: rng.random())[:num_sampled]
    end_of_turn = chat.tokenizer.convert_ids_to_tokens(chat.end_of_turn_id)
    return Findings(counts, benchmarks, chat.context_length, end_of_turn, time.monotonic() - began, sample, wrong_steps)


def _note_step(problem: Problem, wrong_steps: dict[str, str]) -> Problem:
    """The problem, after a false equation of its expert solution is noted."""
    if (step := false_equation(problem.expert_solution or "")) is not None:
        wrong_steps[problem.problem_id] = step
    return problem


def _check_reachable(output: str) -> None:
    try:
        Folder.at(output).exists()
    except OSError as error:
        raise InputError(f"[run] output: {output} cannot be reached: {brief(error)}") from error


def _check_loss(experiment: Experiment) -> None:
    """Refuse a loss whose inputs rewriting will not record, which would otherwise fail only after rewriting."""
    draws = bool(experiment.rewrite.stages) and experiment.train.examples is None
    if experiment.train.loss == "is" and draws and not experiment.rewrite.behavior_logprobs:
        raise InputError(
            '[train] loss: "is" needs the log-probabilities with which the policy sampled its tokens; '
            "set [rewrite] behavior_logprobs = true"
        )
