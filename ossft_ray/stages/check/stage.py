"""`ossft check`: is the experiment sound? Config, data, policy and benchmarks, before anything is spent."""

import random
import time
from contextlib import closing
from dataclasses import dataclass, field

from ossft_ray.common.errors import InputError, brief
from ossft_ray.common.storage import Folder
from ossft_ray.common.types import Problem
from ossft_ray.config import Experiment
from ossft_ray.data.benchmarks import read_benchmark
from ossft_ray.data.gold_check import gold_pool
from ossft_ray.data.screening import InputCounts, UsableProblem, screen_problems
from ossft_ray.data.seen_problems import ProblemIndex
from ossft_ray.distributed.session import check_output
from ossft_ray.engines.vllm_policy import check_engine_settings
from ossft_ray.method.rewriting import derive_seed
from ossft_ray.policy.chat import load_chat
from ossft_ray.stages.check.estimate import Reservoir
from ossft_ray.stages.evaluate.models import other_models


@dataclass(frozen=True)
class Findings:
    """What `check` saw: of the problems, the benchmarks (how many problems each has) and the policy."""

    tally: InputCounts
    benchmarks: dict[str, int]
    context_length: int
    end_of_turn: str
    seconds: float  # for reading all the problems
    sample: list[Problem] = field(default_factory=list)  # of the usable problems, as many as were asked for


def check(experiment: Experiment, num_sampled: int = 0) -> Findings:
    """Read all that the run will read, and load no model; `num_sampled` problems are drawn by the run's seed.

    Raises:
        InputError: the first thing that would stop the run; says what, where, and how to mend it.
    """
    check_output(experiment.run.output)
    _check_reachable(experiment.run.output)
    check_engine_settings(experiment.policy.engine)
    _check_loss(experiment)
    chat = load_chat(experiment.policy)
    for other in other_models(experiment).values():
        load_chat(other.policy)
    benchmarks = {
        name: len(read_benchmark(name, experiment.evaluate, experiment.verify.kind))
        for name in experiment.evaluate.benchmarks
    }
    tally, began = InputCounts(), time.monotonic()
    reservoir: Reservoir[Problem] = Reservoir(num_sampled, random.Random(derive_seed(experiment.run.seed, "probe")))
    with closing(ProblemIndex()) as seen, gold_pool(experiment) as pool:
        for item in screen_problems(experiment, chat, seen, tally, pool):
            if isinstance(item, UsableProblem) and num_sampled:
                reservoir.offer(item.problem)
    end_of_turn = chat.tokenizer.convert_ids_to_tokens(chat.end_of_turn_id)
    seconds = time.monotonic() - began
    return Findings(tally, benchmarks, chat.context_length, end_of_turn, seconds, reservoir.sample())


def _check_reachable(output: str) -> None:
    try:
        Folder.at(output).exists()
    except OSError as error:
        raise InputError(f"[run] output: {output} cannot be reached: {brief(error)}") from error


def _check_loss(experiment: Experiment) -> None:
    """Rewriting without what the loss will ask for would only be found out at its end."""
    draws = bool(experiment.rewrite.stages) and experiment.train.examples is None
    if experiment.train.loss == "is" and draws and not experiment.rewrite.behavior_logprobs:
        raise InputError(
            '[train] loss: "is" needs the log-probabilities that the policy drew its tokens with; '
            "set [rewrite] behavior_logprobs = true"
        )
