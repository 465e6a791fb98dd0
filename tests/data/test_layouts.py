"""The texts of a row in each layout of the table in `layouts.py`, and refusals."""

import json
from typing import Any

import pytest

from ossft_ray.common.errors import InputError
from ossft_ray.config import Columns
from ossft_ray.data.chats import UnusableRow
from ossft_ray.data.layouts import ProblemTexts, choose_layout, read_texts

GSM8K_SOLUTION = "48/2 = <<48/2=24>>24\n48+24 = 72\n#### 72"
BOX = r"It is \boxed{2}."
COT = {"source": "cn_k12", "problem": "1+1?", "solution": BOX}
NUMINA_1_5 = {"problem": "1+1?", "solution": BOX, "problem_type": "Algebra", "question_type": "math-word-problem"}
USER, ASSISTANT = {"role": "user", "content": "1+1?"}, {"role": "assistant", "content": BOX}
TAIL = {"role": "assistant", "content": GSM8K_SOLUTION}
SYSTEM = {"role": "system", "content": "Think."}
TURN = [USER, ASSISTANT]
THINKING = json.dumps([SYSTEM, USER])
SHAREGPT = [{"from": "human", "value": "1+1?"}, {"from": "gpt", "value": BOX}]


def parts(role: str, *texts: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text} for text in texts]}


def read(row: dict[str, Any], **columns: str) -> ProblemTexts:
    return read_texts(row, choose_layout(row, Columns(**columns), "x.jsonl"))


@pytest.mark.parametrize(
    "row, columns, texts",
    [
        # as configured
        ({"q": "1+1?", "how": BOX}, {"question": "q", "expert_solution": "how"}, ProblemTexts("1+1?", BOX, "2")),
        (
            {"q": "1+1?", "how": "add", "a": 2},
            {"question": "q", "expert_solution": "how", "answer": "a"},
            ProblemTexts("1+1?", "add", "2"),
        ),
        # NuminaMath-1.5
        ({**NUMINA_1_5, "answer": "3"}, {}, ProblemTexts("1+1?", BOX, "3")),
        ({**NUMINA_1_5, "answer": "proof"}, {}, ProblemTexts("1+1?", BOX, "")),
        ({**NUMINA_1_5, "answer": " Proof "}, {}, ProblemTexts("1+1?", BOX, "")),
        ({**NUMINA_1_5, "answer": "notfound"}, {}, ProblemTexts("1+1?", BOX, "")),
        ({**NUMINA_1_5, "answer": "NotFound"}, {}, ProblemTexts("1+1?", BOX, "")),
        ({**NUMINA_1_5, "answer": None}, {}, ProblemTexts("1+1?", BOX, "")),
        ({**NUMINA_1_5, "answer": "waterproof"}, {}, ProblemTexts("1+1?", BOX, "waterproof")),
        # NuminaMath-CoT
        ({**COT, "messages": [{"role": "user", "content": "other"}, ASSISTANT]}, {}, ProblemTexts("1+1?", BOX, "2")),
        ({**COT, "solution": "no box"}, {}, ProblemTexts("1+1?", "no box", "")),
        # GSM8K
        ({"question": "How many?", "answer": GSM8K_SOLUTION}, {}, ProblemTexts("How many?", GSM8K_SOLUTION, "72")),
        (
            {"question": "How many?", "answer": GSM8K_SOLUTION},
            {"question": "question", "expert_solution": "answer"},
            ProblemTexts("How many?", GSM8K_SOLUTION, "72"),
        ),
        # chat
        ({"messages": TURN}, {}, ProblemTexts("1+1?", BOX, "2")),
        ({"messages": [SYSTEM, *TURN]}, {}, ProblemTexts("1+1?", BOX, "2", THINKING)),
        ({"messages": TURN, "answer": "3"}, {}, ProblemTexts("1+1?", BOX, "3")),
        ({"messages": TURN, "answer": "proof"}, {}, ProblemTexts("1+1?", BOX, "")),
        (
            {"messages": [USER, TAIL]},
            {},
            ProblemTexts("1+1?", GSM8K_SOLUTION, "72"),
        ),
        ({"chat": TURN}, {"messages": "chat"}, ProblemTexts("1+1?", BOX, "2")),
        # configured columns take precedence over the other layouts
        ({"problem": "p", "solution": "s", "messages": TURN}, {"messages": "messages"}, ProblemTexts("1+1?", BOX, "2")),
        ({**COT, "q": "asked", "messages": TURN}, {"question": "q"}, ProblemTexts("asked", BOX, "2")),
        ({"messages": TURN, "gold": "4"}, {"answer": "gold"}, ProblemTexts("1+1?", BOX, "4")),
        # MetaMathQA, Orca, Big-Math with solutions, TRL's prompt and completion, input and output
        ({"query": "1+1?", "response": BOX, "type": "t", "original_question": "?"}, {}, ProblemTexts("1+1?", BOX, "2")),
        ({"system_prompt": "s", "question": "1+1?", "response": BOX}, {}, ProblemTexts("1+1?", BOX, "2")),
        ({"prompt": "1+1?", "completion": BOX}, {}, ProblemTexts("1+1?", BOX, "2")),
        (
            {"prompt": [SYSTEM, USER], "completion": [ASSISTANT], "origin": "self"},
            {},
            ProblemTexts("1+1?", BOX, "2", THINKING),
        ),
        ({"input": "1+1?", "output": BOX, "expected_answer": "3"}, {}, ProblemTexts("1+1?", BOX, "3")),
        # our own names
        ({"question": "1+1?", "expert_solution": "add", "answer": "2"}, {}, ProblemTexts("1+1?", "add", "2")),
        # OpenMathInstruct-1 and -2, OpenR1-Math, DeepMath-103K
        (
            {"question": "1+1?", "expected_answer": "3", "predicted_answer": "2", "generated_solution": BOX},
            {},
            ProblemTexts("1+1?", BOX, "3"),
        ),
        ({"problem": "1+1?", "generated_solution": BOX, "expected_answer": "3"}, {}, ProblemTexts("1+1?", BOX, "3")),
        (
            {**NUMINA_1_5, "answer": "3", "uuid": "u", "generations": ["g"], "messages": [USER, TAIL]},
            {},
            ProblemTexts("1+1?", BOX, "3"),
        ),
        ({"question": "1+1?", "final_answer": "3", "r1_solution_1": BOX}, {}, ProblemTexts("1+1?", BOX, "3")),
        (
            {"question": "1+1?", "final_answer": "3", "how": BOX},
            {"question": "question", "expert_solution": "how"},
            ProblemTexts("1+1?", BOX, "3"),
        ),
        # the answer's column is a whole solution with a box
        ({"question": "1+1?", "answer": BOX}, {}, ProblemTexts("1+1?", BOX, "2")),
        # Alpaca, Dolly
        ({"instruction": "Add.", "input": "1, 1", "output": BOX}, {}, ProblemTexts("Add.\n\n1, 1", BOX, "2")),
        ({"instruction": "1+1?", "input": "", "output": BOX}, {}, ProblemTexts("1+1?", BOX, "2")),
        ({"instruction": "k?", "context": "k=2", "response": BOX}, {}, ProblemTexts("k=2\nk?", BOX, "2")),
        (
            {"problem": "k?", "given": "k=2", "solution": BOX},
            {"context": "given"},
            ProblemTexts("k=2\nk?", BOX, "2"),
        ),
        # verl's GSM8K
        (
            {
                "data_source": "openai/gsm8k",
                "prompt": [{"role": "user", "content": "1+1? Think step by step."}],
                "reward_model": {"ground_truth": "72", "style": "rule"},
                "extra_info": {"answer": GSM8K_SOLUTION, "question": "1+1?", "index": 0},
            },
            {},
            ProblemTexts("1+1?", GSM8K_SOLUTION, "72"),
        ),
        # DAPO, with added solutions
        (
            {"prompt": [USER], "reward_model": {"ground_truth": "3", "style": "rule"}, "solution": BOX},
            {},
            ProblemTexts("1+1?", BOX, "3"),
        ),
        (
            {"prompt": [USER], "meta": {"gold": 3}, "solution": BOX},
            {"answer": "meta.gold"},
            ProblemTexts("1+1?", BOX, "3"),
        ),
        # ShareGPT, as we export it and as OpenThoughts and others write it
        ({"conversations": SHAREGPT}, {}, ProblemTexts("1+1?", BOX, "2")),
        (
            {"conversations": [{"from": "system", "value": "Think."}, *SHAREGPT]},
            {},
            ProblemTexts("1+1?", BOX, "2", THINKING),
        ),
        ({"chat": SHAREGPT}, {"messages": "chat"}, ProblemTexts("1+1?", BOX, "2")),
        (
            {"system": "s", "conversations": [{"from": "user", "value": "1+1?"}, {"from": "assistant", "value": BOX}]},
            {},
            ProblemTexts("1+1?", BOX, "2"),
        ),
        # parts of text; a chat as JSON text (Orca-AgentInstruct); a developer's message
        (
            {"messages": [parts("user", "1+1?"), parts("assistant", "It is", r"\boxed{2}.")]},
            {},
            ProblemTexts("1+1?", "It is\n\\boxed{2}.", "2"),
        ),
        ({"messages": json.dumps([SYSTEM, *TURN])}, {}, ProblemTexts("1+1?", BOX, "2", THINKING)),
        (
            {"messages": [{"role": "developer", "content": "Think."}, *TURN]},
            {},
            ProblemTexts("1+1?", BOX, "2", THINKING),
        ),
        # AM-Thinking: the answer is in the user message's `info`
        ({"messages": [{**USER, "info": {"reference_answer": "3"}}, ASSISTANT]}, {}, ProblemTexts("1+1?", BOX, "3")),
        (
            {"conversations": [{**SHAREGPT[0], "info": {"ground_truth": "3"}}, SHAREGPT[1]]},
            {},
            ProblemTexts("1+1?", BOX, "3"),
        ),
        # end tokens left in the text
        ({"problem": "1+1?", "solution": "so\n#### 2<|endoftext|>"}, {}, ProblemTexts("1+1?", "so\n#### 2", "2")),
        ({"problem": "1+1?", "solution": "so\n#### 2 </s>\n"}, {}, ProblemTexts("1+1?", "so\n#### 2", "2")),
        ({"problem": "1+1?", "solution": "so", "answer": "2<|im_end|></s>"}, {}, ProblemTexts("1+1?", "so", "2")),
        (
            {"messages": [USER, {"role": "assistant", "content": BOX + "<|eot_id|>"}]},
            {},
            ProblemTexts("1+1?", BOX, "2"),
        ),
    ],
)
def test_layouts(row: dict[str, Any], columns: dict[str, str], texts: ProblemTexts) -> None:
    assert read(row, **columns) == texts


IMAGE = {"type": "image_url", "image_url": {"url": "x"}}


@pytest.mark.parametrize(
    "row, reason",
    [
        ({"messages": [*TURN, USER]}, "broken_chat: the last message is the user's"),
        ({"messages": [ASSISTANT, USER]}, "broken_chat: the last message is the user's"),
        ({"messages": [*TURN, {"role": "tool", "content": "2"}]}, "broken_chat: the last message is the tool's"),
        ({"messages": [SYSTEM, SYSTEM, *TURN]}, "broken_chat: a system message that is not the first"),
        ({"messages": [USER]}, "no_expert_solution"),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, "no_expert_solution"),
        ({"messages": [SYSTEM]}, "no_question"),
        ({"messages": [ASSISTANT]}, "no_question"),
        ({"messages": []}, "no_question"),
        ({"messages": None}, "no_question"),
        ({"messages": "1+1?"}, "no_question: column 'messages' holds text, not a chat"),
        ({"messages": ["1+1?", "2"]}, "no_question: column 'messages' holds a list, not a chat"),
        ({"messages": [{"role": "user", "content": " "}, ASSISTANT]}, "no_question"),
        ({"messages": [{"from": "alice", "value": "1+1?"}]}, "no_question: no message of the user, only of 'alice'"),
        (
            {"messages": [{**USER, "content": [IMAGE]}, ASSISTANT]},
            "not_text: a message holds a part of type 'image_url'",
        ),
        ({"problem": "", "solution": BOX}, "no_question"),
        ({"problem": "1+1?", "solution": None}, "no_expert_solution"),
        ({"problem": "1+1?", "solution": 2}, "no_expert_solution: column 'solution' holds a number, not text"),
        ({"problem": {"text": "1+1?"}, "solution": BOX}, "no_question: column 'problem' holds an object, not text"),
        (
            {"problem": b"\xff", "solution": BOX},
            "no_question: column 'problem' holds bytes that are not UTF-8, not text",
        ),
    ],
)
def test_unusable_rows(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnusableRow) as caught:
        read(row)
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    "row, columns, words",
    [
        ({"task": "q", "solution": "s"}, {}, "no column 'problem'; found: task, solution; name it in [data]"),
        (
            {"question": "q", "answer": "no tail"},
            {},
            "no column 'solution'; found: question, answer; name it in [data]",
        ),
        ({"question": "q", "answer": "1"}, {}, "the answers are in 'answer'; name that column if it holds whole"),
        ({"problem": "q", "answer": "1"}, {}, "no column 'solution'"),
        # DAPO, Big-Math and other data for reinforcement learning
        (
            {"prompt": [USER], "reward_model": {"ground_truth": "1"}},
            {},
            "the answers are in 'reward_model.ground_truth'",
        ),
        ({"question": "q", "answer": "#### 1"}, {"question": "prompt"}, "no column 'prompt'; found: question, answer"),
        ({"question": "q", "answer": "#### 1"}, {"expert_solution": "solution"}, "no column 'solution'"),
        ({"problem": "q", "solution": BOX}, {"answer": "gold"}, "no column 'gold'; found: problem, solution"),
        ({"problem": "q", "solution": BOX}, {"context": "given"}, "name it in [data] columns.context"),
        ({"messages": TURN}, {"question": "problem"}, "no column 'problem'; found: messages"),
        ({**COT, "messages": TURN}, {"messages": "chat"}, "no column 'chat'; found: source, problem"),
        ({"data": [{"problem": "q", "solution": BOX}]}, {}, "if 'data' is a list of the rows, write these to a file"),
        ({}, {}, "no column 'problem'; found: none"),
    ],
)
def test_missing_columns_are_refused(row: dict[str, Any], columns: dict[str, str], words: str) -> None:
    with pytest.raises(InputError) as caught:
        read(row, **columns)
    assert str(caught.value).startswith("x.jsonl: ") and words in str(caught.value)


@pytest.mark.parametrize(
    "row, columns, unread, doubtful",
    [
        ({"problem": "q", "solution": BOX, "level": 1}, {}, ("level",), ()),
        ({"question": "q", "options": ["1"], "solution": BOX, "id": 1}, {}, ("options",), ("options",)),
        ({"instruction": "q", "input": "1", "output": BOX}, {}, (), ()),
        (
            {"instruction": "q", "input": "1", "output": BOX},
            {"question": "instruction", "expert_solution": "output"},
            ("input",),
            ("input",),
        ),
        ({"system": "s", "conversations": SHAREGPT}, {}, ("system",), ("system",)),
        ({"prompt": [USER], "reward_model": {"ground_truth": "1"}, "solution": BOX}, {}, (), ()),
    ],
)
def test_columns_that_are_not_read(
    row: dict[str, Any], columns: dict[str, str], unread: tuple[str, ...], doubtful: tuple[str, ...]
) -> None:
    layout = choose_layout(row, Columns(**columns), "x.jsonl")
    assert (layout.unread, layout.doubtful) == (unread, doubtful)
