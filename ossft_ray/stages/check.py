"""`ossft check`: is the experiment sound? Config, data, policy and benchmarks, before anything is spent."""

from collections import Counter
from dataclasses import dataclass

from ossft_ray.config import Experiment
from ossft_ray.data import Rejection, read_benchmark
from ossft_ray.engines.chat import load_chat
from ossft_ray.engines.vllm_policy import check_engine_settings
from ossft_ray.errors import InputError
from ossft_ray.stages.cluster import check_output
from ossft_ray.stages.intake import usable_problems


@dataclass(frozen=True)
class Findings:
    """What `check` saw: how many problems can be used, why others cannot, and what the policy is."""

    problems: int
    rejected: dict[str, int]  # by reason
    benchmarks: dict[str, int]  # problems in each
    context_length: int
    end_of_turn: str


def check(experiment: Experiment) -> Findings:
    """Read all that the run will read, and load no model.

    Raises:
        InputError: the first thing that would stop the run; says what, where, and how to mend it.
    """
    check_output(experiment.run.output)
    check_engine_settings(experiment.policy.engine)
    chat = load_chat(experiment.policy)
    benchmarks = {name: len(read_benchmark(name, experiment.evaluate)) for name in experiment.evaluate.benchmarks}
    rejected: Counter[str] = Counter()
    num_problems = 0
    first: Rejection | None = None
    for item in usable_problems(experiment, chat):
        if isinstance(item, Rejection):
            first = first or item
            rejected[item.reason.partition(":")[0]] += 1
        else:
            num_problems += 1
    if num_problems == 0:
        raise InputError(f"[data] path: {experiment.data.path} holds no usable problem; {first or 'it is empty'}")
    end_of_turn = chat.tokenizer.convert_ids_to_tokens(chat.end_of_turn_id)
    return Findings(num_problems, dict(rejected), benchmarks, chat.context_length, end_of_turn)
