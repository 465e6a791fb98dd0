"""A finished rewrite folder, written by hand, for tests of the stages that read one."""

from typing import Any

from ossft_ray.config import Policy
from ossft_ray.engines.chat import load_chat
from ossft_ray.method.prompts import solve_prompt
from ossft_ray.playground.problems import training_problems
from ossft_ray.schema import EXAMPLE, to_table
from ossft_ray.storage import Folder, finish_stage


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
    folder.write_table("part-00000.parquet", to_table(rows, EXAMPLE))
    finish_stage(folder, {"rows": num_rows}, {"problems": num_rows})
    return rows
