"""Conversations pass through whole: the policy samples after all of their messages, and trains on the same prompt."""

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ossft_ray.common.schema import EXAMPLE_SCHEMA, PROBLEM_SCHEMA, to_table
from ossft_ray.common.types import Problem, RewriteResult
from ossft_ray.config import Experiment, resolve
from ossft_ray.data.problem_index import ProblemIndex
from ossft_ray.data.problems import Rejection
from ossft_ray.data.screening import InputCounts, UsableProblem, screen_problems
from ossft_ray.method.rewriting import stage_prompt
from ossft_ray.policy.chat import Chat, load_chat
from ossft_ray.policy.example_tokens import encode_example
from ossft_ray.stages.check.probe import sample_row
from ossft_ray.stages.rewrite.rows import example_rows

# As in Qwen's template, tools and calls are JSON.
TEMPLATE = """{% if tools %}<|im_start|>tools {{ tools | tojson }}<|im_end|>{% endif %}\
{% for m in messages %}{% if m.role == 'critic' %}{{ raise_exception('no critics') }}{% endif %}\
<|im_start|>{{ m.role }} {{ m.content }}{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}<|im_end|>\
{% endfor %}\
{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"""
TOOLS = [{"type": "function", "function": {"name": "add", "description": "adds <|im_end|>", "parameters": {}}}]
CALL = [{"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}}]
SYSTEM = {"role": "system", "content": "You are brief."}
EARLIER = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]
QUESTION = {"role": "user", "content": "1+2?"}
CALLED = [{"role": "assistant", "content": None, "tool_calls": CALL}, {"role": "tool", "content": "3", "name": "add"}]
SOLUTION = {"role": "assistant", "content": r"So \boxed{3}."}

Screen = Callable[..., tuple[Experiment, Chat, list[UsableProblem | Rejection]]]


@pytest.fixture
def screen(tmp_path: Path) -> Screen:
    """The experiment, its chat and the outcome of each row, with short prompts."""

    def screened(
        *rows: dict[str, Any], template: str = TEMPLATE, columns: dict[str, str] | None = None, **prompts: str
    ) -> Any:
        path = tmp_path / "chats.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        texts = {"system": "", "solve": "{question}", "guided": "{question} GUIDE {expert_solution}", **prompts}
        experiment = resolve(
            {
                "policy": {"model": "playground", "chat_template": template},
                "data": {"path": str(path), "contamination": "ignore", "bad_golds": "ignore", "columns": columns or {}},
                "prompts": texts,
            }
        )
        chat = load_chat(experiment.policy)
        with closing(ProblemIndex()) as seen:
            return experiment, chat, list(screen_problems(experiment, chat, seen, InputCounts()))

    return screened


@pytest.mark.parametrize(
    "row, system, rendered",
    [
        ({"messages": [QUESTION, SOLUTION]}, "", "user 1+2?|assistant "),
        ({"messages": [SYSTEM, QUESTION, SOLUTION]}, "", "system You are brief.|user 1+2?|assistant "),
        ({"messages": [SYSTEM, QUESTION, SOLUTION]}, "Box.", "system You are brief.\n\nBox.|user 1+2?|assistant "),
        ({"messages": [SYSTEM, QUESTION, SOLUTION]}, "brief", "system You are brief.|user 1+2?|assistant "),
        ({"messages": [*EARLIER, QUESTION, SOLUTION]}, "", "user 1+1?|assistant 2|user 1+2?|assistant "),
        ({"messages": [*EARLIER, QUESTION, SOLUTION]}, "S", "system S|user 1+1?|assistant 2|user 1+2?|assistant "),
        ({"prompt": [*EARLIER, QUESTION], "completion": [SOLUTION]}, "", "user 1+1?|assistant 2|user 1+2?|assistant "),
        (
            {"messages": [QUESTION, *CALLED, SOLUTION], "tools": TOOLS},
            "S",
            f"tools {json.dumps(TOOLS)}|system S|user 1+2?|assistant {json.dumps(CALL)}|tool 3|assistant ",
        ),
        ({"messages": [{**QUESTION, "name": "Bo"}, SOLUTION], "tools": ""}, "", "user 1+2?|assistant "),
        ({"question": "1+2?", "solution": SOLUTION["content"], "tools": "hammer"}, "", "user 1+2?|assistant "),
        (
            {"messages": [QUESTION, SOLUTION], "tools": json.dumps(TOOLS)},
            "",
            f"tools {json.dumps(TOOLS)}|user 1+2?|assistant ",
        ),
    ],
)  # fmt: skip
def test_a_conversation_is_sampled_and_trained_on_whole(
    row: dict[str, Any], system: str, rendered: str, screen: Screen
) -> None:
    experiment, chat, (item,) = screen(row, system=system)
    assert isinstance(item, UsableProblem)
    (stored,) = to_table([vars(item.problem)], PROBLEM_SCHEMA).to_pylist()
    problem = Problem(**stored)
    assert (problem.question, problem.answer, problem.expert_solution) == ("1+2?", "3", SOLUTION["content"])
    sampled = chat.render(stage_prompt("self", problem, experiment.rewrite, experiment.prompts))
    text = chat.tokenizer.decode(sampled).replace("<|im_end|><|im_start|>", "|").removeprefix("<|im_start|>")
    assert text == rendered
    assert sampled.count(chat.end_of_turn_id) == rendered.replace("<|im_end|>", "").count("|"), (
        "only the template writes control tokens"
    )
    (example,) = example_rows(problem, RewriteResult("expert", [], []), chat, experiment)
    (trained,) = to_table([example], EXAMPLE_SCHEMA).to_pylist()
    assert encode_example(trained, chat, experiment).prompt == sampled
    guided = chat.tokenizer.decode(chat.render(stage_prompt("guided", problem, experiment.rewrite, experiment.prompts)))
    shown = r"user 1+2? GUIDE So \boxed{?}."
    assert guided.replace("<|im_end|><|im_start|>", "|").removeprefix("<|im_start|>") == rendered.replace(
        "user 1+2?", shown
    )


WITHOUT_TOOLS = TEMPLATE.replace("{% if tools %}", "{% if false %}")


@pytest.mark.parametrize(
    "row, template, reason",
    [
        ({"messages": [QUESTION, SOLUTION], "tools": TOOLS}, WITHOUT_TOOLS, "chat_template: it leaves the tools out"),
        (
            {"messages": [*EARLIER, QUESTION, SOLUTION]},
            TEMPLATE.replace("'critic'", "'assistant' and not loop.last"),
            "chat_template: it cannot render the conversation: no critics",
        ),
        ({"messages": [QUESTION, SOLUTION], "tools": "no JSON"}, TEMPLATE, "broken_chat: the tools are not JSON"),
        (
            {"messages": [QUESTION, SOLUTION], "tools": ["a"]},
            TEMPLATE,
            "broken_chat: the tools are not a list of objects",
        ),
        ({"messages": [QUESTION, SYSTEM, SOLUTION]}, TEMPLATE, "broken_chat: a system message that is not the first"),
        ({"messages": [QUESTION, SOLUTION, SOLUTION]}, TEMPLATE, "broken_chat: no message of the user before the"),
        ({"messages": [{"role": "critic", "content": "?"}, QUESTION, SOLUTION]}, TEMPLATE, "broken_chat: a message of"),
        ({"messages": [QUESTION, SOLUTION, QUESTION]}, TEMPLATE, "broken_chat: the last message is the user's"),
    ],
)
def test_a_conversation_that_cannot_be_used_is_set_aside(
    row: dict[str, Any], template: str, reason: str, screen: Screen
) -> None:
    usable = {"messages": [QUESTION, SOLUTION]}
    _, _, (_, item) = screen(usable, row, template=template)
    assert isinstance(item, Rejection) and item.reason.startswith(reason)


def test_a_probe_reads_its_problems_back(screen: Screen) -> None:
    row = {"messages": [SYSTEM, *EARLIER, QUESTION, SOLUTION], "tools": TOOLS, "answer": "3"}
    _, _, (item,) = screen(row)
    columns = {"question": "question", "expert_solution": "expert_solution"}
    _, _, (again,) = screen(sample_row(item.problem), columns=columns)
    assert again.problem == item.problem


def test_equal_questions_in_different_conversations_are_no_duplicates(screen: Screen) -> None:
    other = [{"role": "user", "content": "5+5?"}, {"role": "assistant", "content": "10"}]
    rows = [{"messages": [*before, QUESTION, SOLUTION]} for before in (EARLIER, other, EARLIER)]
    _, _, items = screen(*rows)
    assert [[note.partition(":")[0] for note in item.notes] for item in items] == [[], [], ["duplicate_question"]]
