"""What became of each problem of a probe? Read from its examples and from what it dropped."""

from collections import defaultdict
from typing import Any

from ossft_ray.common.schema import DROPPED_SCHEMA, EXAMPLE_SCHEMA
from ossft_ray.common.storage import Folder
from ossft_ray.config import Experiment
from ossft_ray.policy.chat import load_chat
from ossft_ray.policy.example_tokens import EncodedExample, encode_example
from ossft_ray.run_folder.names import DROPPED_PARTS, PARTS
from ossft_ray.stages.check.budget import DROPPED, ProbedProblem


def probed_problems(folder: Folder, experiment: Experiment) -> list[ProbedProblem]:
    """The problems of a complete rewrite folder, in the order of its rows."""
    chat = load_chat(experiment.policy)
    rows_of: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in folder.read_tables(PARTS, EXAMPLE_SCHEMA).to_pylist():
        rows_of[row["problem_id"]].append(row)
    examples = {
        problem_id: [encode_example(row, chat, experiment) for row in rows] for problem_id, rows in rows_of.items()
    }
    dropped = folder.read_tables(DROPPED_PARTS, DROPPED_SCHEMA).to_pylist()
    max_length = experiment.train.max_length
    return [_probed(rows[0], examples[problem_id], max_length) for problem_id, rows in rows_of.items()] + [
        _probed(row, [], max_length) for row in dropped
    ]


def _probed(row: dict[str, Any], examples: list[EncodedExample], max_length: int) -> ProbedProblem:
    attempts = row["attempts"]
    firsts = {attempt["stage"]: attempt for attempt in attempts if attempt["index"] == 0}
    fitting = [example for example in examples if example.num_tokens <= max_length]
    return ProbedProblem(
        origin=row.get("origin") or DROPPED,
        first_draws={stage: attempt["correct"] for stage, attempt in firsts.items()},
        first_tokens=firsts["self"]["num_tokens"] if "self" in firsts else None,
        num_attempts=len(attempts),
        generated_tokens=sum(attempt["num_tokens"] for attempt in attempts),
        num_examples=len(fitting),
        num_too_long=len(examples) - len(fitting),
        response_tokens=sum(len(example.response) for example in fitting),
    )
