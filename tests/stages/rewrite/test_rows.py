"""The rows of a rewritten problem: an expert's ends with its answer in a box, outside of thinking."""

from typing import Any

import pytest

from ossft_ray.common.types import Attempt, Problem, Response, RewriteResult
from ossft_ray.config import Policy, resolve
from ossft_ray.policy.chat import load_chat
from ossft_ray.stages.rewrite.rows import example_rows

PROBLEM = Problem("p1", "What is 2 + 3?", "5", "2 + 3 = 5.")
BOXED = "2 + 3 = 5.\nThe answer is $\\boxed{5}$."
TURNS = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
TEMPLATES = {
    "opens": TURNS + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}",
    "opens and closes": TURNS + "{% if add_generation_prompt %}<think>\n\n</think>\n\n{% endif %}",
    "neither": TURNS + "{% if add_generation_prompt %}assistant: {% endif %}",
}


def rows_of(result: RewriteResult, template: str, **settings: Any) -> list[dict[str, Any]]:
    policy = {"model": "playground", "chat_template": TEMPLATES[template]}
    experiment = resolve({"policy": policy, "data": {"path": "x.jsonl"}, **settings})
    return example_rows(PROBLEM, result, load_chat(Policy(**policy)), experiment)


@pytest.mark.parametrize(
    "template, before",
    [("opens", "\n</think>\n\n"), ("opens and closes", ""), ("neither", "")],
)
def test_an_experts_row_follows_the_thinking_and_ends_with_a_box(template: str, before: str) -> None:
    (row,) = rows_of(RewriteResult("expert", [], []), template)
    chat = load_chat(Policy(model="playground", chat_template=TEMPLATES[template]))
    assert (row["response"], row["expert_solution"]) == (before + BOXED, "2 + 3 = 5.")
    assert row["completion"] == [{"role": "assistant", "content": before + BOXED}]
    assert chat.decode(row["response_token_ids"]) == before + BOXED
    assert row["response_token_ids"][-1] == chat.end_of_turn_id
    assert chat.encode_response("2.") == chat.encode_response(f"{before}2.")


def test_an_experts_row_may_stay_as_it_is() -> None:
    (row,) = rows_of(RewriteResult("expert", [], []), "neither", prompts={"answer": ""})
    assert row["response"] == "2 + 3 = 5."


def test_a_policys_row_stays_as_it_was_sampled() -> None:
    attempt = Attempt("self", 0, True, "correct", "stop", 2, Response("It is 5.", [7, 8], "stop", in_thinking=True))
    (row,) = rows_of(RewriteResult("self", [attempt], [attempt]), "opens")
    assert (row["response"], row["response_token_ids"]) == ("It is 5.", [7, 8])
