"""The texts of a row in each layout of the table in `layouts.py`, and refusals."""

from typing import Any

import pytest

from ossft_ray.common.errors import InputError
from ossft_ray.config import Columns
from ossft_ray.data.layouts import ProblemTexts, UnusableRow, choose_columns, read_texts

GSM8K_SOLUTION = "48/2 = <<48/2=24>>24\n48+24 = 72\n#### 72"
BOX = r"It is \boxed{2}."
COT = {"source": "cn_k12", "problem": "1+1?", "solution": BOX}
NUMINA_1_5 = {"problem": "1+1?", "solution": BOX, "problem_type": "Algebra", "question_type": "math-word-problem"}
USER, ASSISTANT = {"role": "user", "content": "1+1?"}, {"role": "assistant", "content": BOX}
TAIL = {"role": "assistant", "content": GSM8K_SOLUTION}
SYSTEM = {"role": "system", "content": "Think."}
TURN = [USER, ASSISTANT]


def read(row: dict[str, Any], **columns: str) -> ProblemTexts:
    return read_texts(row, *choose_columns(row, Columns(**columns), "x.jsonl"))


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
        ({"messages": [SYSTEM, *TURN]}, {}, ProblemTexts("1+1?", BOX, "2")),
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
    ],
)
def test_layouts(row: dict[str, Any], columns: dict[str, str], texts: ProblemTexts) -> None:
    assert read(row, **columns) == texts


@pytest.mark.parametrize(
    "row, reason",
    [
        ({"messages": [*TURN, USER]}, "not_one_turn"),
        ({"messages": [*TURN, USER, ASSISTANT]}, "not_one_turn"),
        ({"messages": [ASSISTANT, USER]}, "not_one_turn"),
        ({"messages": [*TURN, {"role": "tool", "content": "2"}]}, "not_one_turn"),
        ({"messages": [SYSTEM, SYSTEM, *TURN]}, "not_one_turn"),
        ({"messages": [USER]}, "no_expert_solution"),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, "no_expert_solution"),
        ({"messages": [SYSTEM]}, "no_question"),
        ({"messages": [ASSISTANT]}, "no_question"),
        ({"messages": []}, "no_question"),
        ({"messages": None}, "no_question"),
        ({"messages": "1+1?"}, "no_question"),
        ({"messages": ["1+1?", "2"]}, "no_question"),
        ({"messages": [{"role": "user", "content": " "}, ASSISTANT]}, "no_question"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "1+1?"}]}, ASSISTANT]}, "no_question"),
        ({"problem": "", "solution": BOX}, "no_question"),
        ({"problem": "1+1?", "solution": None}, "no_expert_solution"),
    ],
)
def test_unusable_rows(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnusableRow) as caught:
        read(row)
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    "row, columns, words",
    [
        ({"question": "q", "solution": "s"}, {}, "no column 'problem'; found: question, solution; name it in [data]"),
        ({"question": "q", "answer": "no tail"}, {}, "no column 'problem'; found: question, answer"),
        ({"problem": "q", "answer": "1"}, {}, "no column 'solution'"),
        ({"question": "q", "answer": "#### 1"}, {"question": "prompt"}, "no column 'prompt'; found: question, answer"),
        ({"question": "q", "answer": "#### 1"}, {"expert_solution": "solution"}, "no column 'problem'"),
        ({"messages": TURN}, {"question": "problem"}, "no column 'problem'; found: messages"),
        ({**COT, "messages": TURN}, {"messages": "chat"}, "no column 'chat'; found: source, problem"),
        ({}, {}, "no column 'problem'; found: none"),
    ],
)
def test_missing_columns_are_refused(row: dict[str, Any], columns: dict[str, str], words: str) -> None:
    with pytest.raises(InputError) as caught:
        read(row, **columns)
    assert str(caught.value).startswith("x.jsonl: ") and words in str(caught.value)
