"""A run's folder as `ossft rewrite` writes it, complete or in progress."""

from collections import Counter
from typing import Any

from ossft_ray.common.schema import EXAMPLE_SCHEMA, PROBLEM_SCHEMA, to_table
from ossft_ray.common.storage import Folder
from ossft_ray.config import Experiment, resolve
from ossft_ray.method.prompts import solve_prompt
from ossft_ray.policy.chat import load_chat
from ossft_ray.run_folder.parts import write_counted
from ossft_ray.run_folder.provenance import write_config
from ossft_ray.run_folder.stage_folder import finish_stage

ORIGINS = ("self", "guided", "expert", "self")
TEXTS = {
    "self": "I find 1 + 1 = 2.\nSo \\boxed{2} é",
    "guided": "In my words: \\boxed{2}",
    "expert": "It is \\boxed{2}.",
}


def attempt(stage: str, index: int, reason: str, response: str | None = None) -> dict[str, Any]:
    correct = reason == "correct"
    values = {"stage": stage, "index": index, "correct": correct, "reason": reason, "finish_reason": "stop"}
    return {**values, "num_tokens": 7, "response": response}


def example(number: int, origin: str, **changes: Any) -> dict[str, Any]:
    text = TEXTS[origin]
    attempts = {
        "self": [attempt("self", 0, "wrong", "no"), attempt("self", 1, "correct", text)],
        "guided": [attempt("self", 0, "unparsed"), attempt("guided", 0, "correct")],
        "expert": [attempt("self", 0, "truncated"), attempt("guided", 0, "copies_reference")],
    }[origin]
    row = {
        "problem_id": f"p{number}",
        "question": f"What is 1 + 1? ({number})",
        "answer": "2",
        "expert_solution": TEXTS["expert"],
        "prompt": solve_prompt(f"What is 1 + 1? ({number})"),
        "completion": [{"role": "assistant", "content": text}],
        "response": text,
        "response_token_ids": CHAT.encode_response(text),
        "origin": origin,
        "num_attempts": len(attempts),
        "num_correct": sum(a["correct"] for a in attempts),
        "attempts": attempts,
        "policy": "playground",
        "verifier": "",
        "conversation": "",
    }
    return row | changes


def settings(output: str, **policy: Any) -> Experiment:
    return resolve(
        {
            "run": {"output": output},
            "policy": {"model": "playground", **policy},
            "data": {"path": ["/home/somebody/secret/problems.jsonl", "owner/set"]},
            "train": {"global_batch_size": 6},
        }
    )


def write_run(output: str, parts: list[list[dict[str, Any]]] | None = None, num_open: int = 0, **policy: Any) -> str:
    """A run with these parts; complete, unless another `num_open` parts of one problem each are still missing."""
    if parts is None:
        parts = [[example(0, "self"), example(1, "guided")], [example(2, "expert"), example(3, "self")]]
    folder = Folder.at(output) / "rewrite"
    problems = [[{name: row[name] for name in PROBLEM_SCHEMA.names} for row in part] for part in parts]
    problems += [[{"problem_id": f"open-{number}"}] for number in range(num_open)]
    folder.write_json("inputs.json", {})
    for number, rows in enumerate(problems):
        (folder / "problems").write_table(f"part-{number:05d}.parquet", to_table(rows, PROBLEM_SCHEMA))
    num_problems = sum(map(len, problems))
    folder.write_json("problems.json", {"problems": num_problems, "rejected": 1})
    for number, rows in enumerate(parts):
        counts = Counter(row["origin"] for row in rows)
        write_counted(folder, f"part-{number:05d}.parquet", to_table(rows, EXAMPLE_SCHEMA), counts)
    if not num_open:
        origins = [row["origin"] for part in parts for row in part]
        manifest = {
            "problems": num_problems,
            "rejected": 1,
            "rejected_reasons": {"no_answer": 1},
            "origins": {origin: origins.count(origin) for origin in ("self", "guided", "expert")},
            "dropped": 0,
            "contamination": {"aime24": 2},
            "attempts": 8,
            "generated_tokens": 56,
        }
        finish_stage(folder, {"rows": num_problems}, manifest)
    write_config(settings(output, **policy))
    return output


CHAT = load_chat(settings("anywhere").policy)
