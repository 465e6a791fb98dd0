r"""The layouts of known data sets: which texts of a row are the question, the answer and the expert's solution.

`docs/data.md` has the table of the layouts. If `question` or `expert_solution` is configured in `[data] columns`,
exactly these columns are read; if `messages` is configured, the rows are chats. If a row has a column for the answer,
only that column counts. If it is empty, `proof` or `notfound`, the row has no answer, even if its solution has a box,
because nobody has checked that box. The system message of a chat is left out, because `[prompts] system` replaces it.
"""

import re
from dataclasses import dataclass
from typing import Any

from ossft_ray.common.errors import InputError
from ossft_ray.config import Columns
from ossft_ray.verification.answers import answer_text, final_answer

_NOTE = re.compile(r"<<[-+*/().,:=%$\dxX ]*=[-+*/().,:=%$\dxX ]*>>")  # a calculation that GSM8K's authors had checked
_NO_ANSWERS = ("proof", "notfound")  # NuminaMath-1.5 writes these where a problem has no answer to compare with


class UnusableRow(Exception):
    """A row that cannot be used; the message is the reason, which starts with a short word."""


@dataclass(frozen=True)
class ProblemTexts:
    """The texts of a problem; `answer` is empty where the row has none that could be checked."""

    question: str
    expert_solution: str
    answer: str


def choose_columns(values: dict[str, Any], configured: Columns, source: str) -> tuple[Columns, bool]:
    """The columns of a file, judged by the values of its first row, and whether its rows are chats.

    Raises:
        InputError: the row has neither the configured columns nor those of a known layout.
    """
    explicit = configured.model_fields_set
    if "messages" in explicit:
        _require(values, configured, ("messages",), source)
        return configured, True
    missing = [key for key in ("question", "expert_solution") if getattr(configured, key) not in values]
    if missing and not explicit & {"question", "expert_solution"}:
        if "question" in values and "####" in str(values.get("answer")):
            return configured.model_copy(update={"question": "question", "expert_solution": "answer"}), False
        if configured.messages in values:
            return configured, True
    _require(values, configured, ("question", "expert_solution"), source)
    return configured, False


def read_texts(
    values: dict[str, Any], columns: Columns, is_chat: bool, kind: str = "math", strip: bool = False
) -> ProblemTexts:
    """The texts of one row; `kind` is the kind of verification of its answer. `strip` takes out annotations.

    Raises:
        UnusableRow: `no_question`, `no_expert_solution` or `not_one_turn`.
    """
    if is_chat:
        question, solution = _read_chat(values.get(columns.messages))
    else:
        question, solution = values.get(columns.question), values.get(columns.expert_solution)
    if not isinstance(question, str) or not question.strip():
        raise UnusableRow("no_question")
    if not isinstance(solution, str) or not solution.strip():
        raise UnusableRow("no_expert_solution")
    has_column = columns.answer in values and columns.answer != columns.expert_solution
    answer = gold_answer(values[columns.answer], kind) if has_column else final_answer(solution)
    solution = strip_annotations(solution) if strip else solution
    return ProblemTexts(question, solution, answer if answer and answer.lower() not in _NO_ANSWERS else "")


def strip_annotations(solution: str) -> str:
    """A solution without GSM8K's `<<48/2=24>>` notes and the `####` tail that states its answer.

    >>> strip_annotations("He sold 48/2 = <<48/2=24>>24 clips.\\n#### 24")
    'He sold 48/2 = 24 clips.'
    """
    plain = _NOTE.sub("", solution)
    body, found, tail = plain.rstrip().rpartition("\n####")
    return body.rstrip() if found and body.strip() and "\n" not in tail else plain


def gold_answer(value: Any, kind: str = "math") -> str:
    """An answer cell as text; if the cell is a whole solution in GSM8K's layout, the text after its `####`."""
    text = answer_text(value, kind)
    return final_answer(text) or text if "####" in text else text


def _read_chat(messages: Any) -> tuple[Any, Any]:
    """The texts of the user and the assistant in a chat of one turn."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise UnusableRow("no_question")
    turns = [(message.get("role"), message.get("content")) for message in messages]
    if turns and turns[0][0] == "system":
        turns = turns[1:]
    roles = [role for role, _ in turns]
    if "user" not in roles:
        raise UnusableRow("no_question")
    if "assistant" not in roles:
        raise UnusableRow("no_expert_solution")
    if roles != ["user", "assistant"]:
        raise UnusableRow("not_one_turn")
    return turns[0][1], turns[1][1]


def _require(values: dict[str, Any], columns: Columns, keys: tuple[str, ...], source: str) -> None:
    for key in keys:
        name = getattr(columns, key)
        if name not in values:
            found = ", ".join(map(str, values)) or "none"
            raise InputError(f"{source}: no column '{name}'; found: {found}; name it in [data] columns.{key}")
