"""Finished rewrite and score folders, written by hand for tests of the stages that read them."""

from typing import Any

from ossft_ray.common.schema import EXAMPLE_SCHEMA, SCORE_SCHEMA, to_table
from ossft_ray.common.storage import Folder
from ossft_ray.config import Policy
from ossft_ray.method.prompts import solve_prompt
from ossft_ray.playground.arithmetic import training_problems
from ossft_ray.policy.chat import load_chat
from ossft_ray.run_folder.stage_folder import finish_stage


def write_examples(output: str, num_rows: int, **changes: Any) -> list[dict[str, Any]]:
    """Expert rows of the playground's training problems, as `ossft rewrite` with stages = [] would leave them."""
    chat = load_chat(Policy(model="playground"))
    rows = []
    for problem in training_problems(num_rows):
        solution = problem["expert_solution"]
        row = {
            "problem_id": problem["id"],
            "question": problem["question"],
            "answer": problem["answer"],
            "expert_solution": solution,
            "prompt": solve_prompt(problem["question"]),
            "completion": [{"role": "assistant", "content": solution}],
            "response": solution,
            "response_token_ids": chat.encode_response(solution),
            "origin": "expert",
            "num_attempts": 0,
            "num_correct": 0,
            "attempts": [],
            "policy": "playground",
        }
        rows.append(row | changes)
    folder = Folder.at(output) / "rewrite"
    folder.write_table("part-00000.parquet", to_table(rows, EXAMPLE_SCHEMA))
    finish_stage(folder, {"rows": num_rows}, {"problems": num_rows})
    return rows


def write_scores(output: str, rows: list[dict[str, Any]], **changes: Any) -> dict[str, list[float]]:
    """Made-up scores of these examples in the form that `ossft score` leaves; returns them by problem id."""
    by_problem = {row["problem_id"]: [-0.01 * (i + 1) for i in range(len(row["response_token_ids"]))] for row in rows}
    scores = [
        {
            "problem_id": row["problem_id"],
            "origin": row["origin"],
            "source": source,
            "token_ids": row["response_token_ids"],
            "reference_logprobs": [shift + value for value in by_problem[row["problem_id"]]],
        }
        | changes
        for row in rows
        for source, shift in (("expert_original", -1.0), ("kept", 0.0))
    ]
    folder = Folder.at(output) / "score"
    folder.write_table("part-00000.parquet", to_table(scores, SCORE_SCHEMA))
    finish_stage(folder, {"rows": len(rows)}, {})
    return by_problem
