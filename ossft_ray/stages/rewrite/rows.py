"""What does a rewritten problem look like as rows? EXAMPLE rows where a solution is kept, one DROPPED row else."""

from typing import Any

from ossft_ray.common.types import Attempt, Problem, Response, Rewritten
from ossft_ray.config import Experiment
from ossft_ray.method.prompts import solve_prompt
from ossft_ray.policy.chat import Chat


def example_rows(problem: Problem, rewritten: Rewritten, chat: Chat, experiment: Experiment) -> list[dict[str, Any]]:
    """A row for each kept response, or one with the expert's solution; none for a problem that is dropped.

    The prompt is always the plain one, whoever wrote the response and with whatever help.
    """
    if rewritten.origin == "expert":
        solution = str(problem.expert_solution)
        response = Response(solution, chat.encode_response(solution), "stop")
        return [_example(problem, rewritten, response, None, experiment)]
    rows = []
    for attempt in rewritten.all_kept:
        assert attempt.response is not None, "a kept attempt holds its response"
        rows.append(_example(problem, rewritten, attempt.response, attempt.index, experiment))
    return rows


def dropped_row(problem: Problem, rewritten: Rewritten, experiment: Experiment) -> dict[str, Any]:
    """What was tried on a problem of which no solution is kept."""
    return {**vars(problem), **_tried(rewritten, experiment)}


def _example(
    problem: Problem,
    rewritten: Rewritten,
    response: Response,
    kept_index: int | None,
    experiment: Experiment,
) -> dict[str, Any]:
    prompts = experiment.prompts
    return {
        **vars(problem),
        "prompt": solve_prompt(problem.question, prompts.system, prompts.solve),
        "completion": [{"role": "assistant", "content": response.text}],
        "response": response.text,
        "response_token_ids": response.token_ids,
        "behavior_logprobs": response.logprobs,
        "origin": rewritten.origin,
        "kept_index": kept_index,
        **_tried(rewritten, experiment),
    }


def _tried(rewritten: Rewritten, experiment: Experiment) -> dict[str, Any]:
    keep_texts = experiment.rewrite.keep_attempts
    return {
        "num_attempts": len(rewritten.attempts),
        "num_correct": sum(attempt.correct for attempt in rewritten.attempts),
        "attempts": [_attempt(attempt, keep_texts) for attempt in rewritten.attempts],
        "attempt_answers": [attempt.extracted for attempt in rewritten.attempts],
        "policy": experiment.policy.model,
    }


def _attempt(attempt: Attempt, keep_text: bool) -> dict[str, Any]:
    text = attempt.response.text if attempt.response and keep_text else None
    values = {name: value for name, value in vars(attempt).items() if name != "extracted"}
    return {**values, "response": text}
