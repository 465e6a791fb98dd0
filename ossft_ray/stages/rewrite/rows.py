"""The rows of a rewritten problem: EXAMPLE rows if a solution is kept, else one DROPPED row."""

from typing import Any

from ossft_ray.common.types import Problem, Response, RewriteResult
from ossft_ray.config import Experiment
from ossft_ray.method.prompts import complete_solution, solve_prompt
from ossft_ray.policy.chat import Chat


def part_rows(
    results: list[tuple[Problem, RewriteResult]], chat: Chat, experiment: Experiment
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], int]:
    """The EXAMPLE rows of a part, its DROPPED rows, and how many expert solutions got their answer appended."""
    examples = [row for problem, result in results for row in example_rows(problem, result, chat, experiment)]
    dropped = [dropped_row(problem, result, experiment) for problem, result in results if not result.origin]
    from_experts = [row for row in examples if row["origin"] == "expert"]
    appended = sum(not row["response"].endswith(row["expert_solution"]) for row in from_experts)
    return examples, dropped, appended


def example_rows(problem: Problem, result: RewriteResult, chat: Chat, experiment: Experiment) -> list[dict[str, Any]]:
    """One row for each kept response, or one with the expert's solution; none for a dropped problem.

    The prompt is always the plain one, whoever wrote the response and with whatever help.
    """
    kept: list[tuple[Response, int | None]] = []
    if result.origin == "expert":
        kept.append((expert_response(problem, chat, experiment), None))
    for attempt in result.kept:
        assert attempt.response is not None, "a kept attempt holds its response"
        kept.append((attempt.response, attempt.index))
    prompts = experiment.prompts
    return [
        {
            **vars(problem),
            "prompt": solve_prompt(problem.question, prompts.system, prompts.solve, problem.conversation),
            "completion": [{"role": "assistant", "content": response.text}],
            "response": response.text,
            "response_token_ids": response.token_ids,
            "behavior_logprobs": response.logprobs,
            "origin": result.origin,
            "kept_index": index,
            **_attempt_columns(result, experiment),
        }
        for response, index in kept
    ]


def expert_response(problem: Problem, chat: Chat, experiment: Experiment) -> Response:
    """The expert's solution as it is trained on, with its answer in a box."""
    completed = complete_solution(str(problem.expert_solution), problem.answer, experiment.prompts)
    solution = chat.close_thinking(completed)
    return Response(solution, chat.encode_response(solution), "stop")


def dropped_row(problem: Problem, result: RewriteResult, experiment: Experiment) -> dict[str, Any]:
    """The attempts at a problem for which no solution is kept."""
    return {**vars(problem), **_attempt_columns(result, experiment)}


def _attempt_columns(result: RewriteResult, experiment: Experiment) -> dict[str, Any]:
    keep_texts = experiment.rewrite.keep_attempts
    attempts, token_ids = [], []
    for attempt in result.attempts:
        text = attempt.response.text if attempt.response and keep_texts else None
        values = {name: value for name, value in vars(attempt).items() if name != "extracted"}
        attempts.append({**values, "response": text})
        token_ids.append(attempt.response.token_ids or None if attempt.response else None)
    return {
        "num_attempts": len(result.attempts),
        "num_correct": sum(attempt.correct for attempt in result.attempts),
        "attempts": attempts,
        "attempt_answers": [attempt.extracted for attempt in result.attempts],
        "attempt_token_ids": token_ids if keep_texts else None,
        "policy": experiment.policy.model,
    }
