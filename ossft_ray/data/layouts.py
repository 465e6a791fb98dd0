r"""Which texts of an input row are the question, the answer and the expert's solution?

A file has the first of these layouts that its first row fits:

| layout         | columns                              | question   | expert's solution | answer                   |
|----------------|--------------------------------------|------------|-------------------|--------------------------|
| as configured  | those of `[data] columns`            | its column | its column        | its column, else the box |
| NuminaMath-1.5 | `problem`, `solution`, `answer`      | `problem`  | `solution`        | `answer`                 |
| NuminaMath-CoT | `problem`, `solution`, `messages`    | `problem`  | `solution`        | the box                  |
| GSM8K          | `question`, `answer` with a `####`   | `question` | `answer`          | what follows the `####`  |
| chat           | `messages`: system?, user, assistant | the user's | the assistant's   | `answer`, else the box   |

The box is the last `\boxed{}` of the expert's solution, or its `####` tail. NuminaMath's two are what the defaults of
`[data] columns` fit. Whoever configures `question` or `expert_solution` gets exactly these columns, and whoever
configures `messages` gets chats. Where a row has a column for the answer, that alone counts: if it is empty, or says
`proof` or `notfound`, the row has no answer whatever its solution's box says, for nothing vouches for that box. The
system message of a chat is left out: `[prompts] system` says what the policy is told.
"""

from dataclasses import dataclass
from typing import Any

from ossft_ray.common.errors import InputError
from ossft_ray.config import Columns
from ossft_ray.verification.answers import answer_text, final_answer

Values = dict[str, Any]
_NO_ANSWERS = ("proof", "notfound")  # what NuminaMath-1.5 writes where there is nothing to compare with


class Unusable(Exception):
    """A row without the texts that a problem needs; the message is the reason."""


@dataclass(frozen=True)
class Texts:
    """What a problem is made of; `answer` is empty where the row has none that could be checked."""

    question: str
    expert_solution: str
    answer: str


def choose_columns(values: Values, configured: Columns, source: str) -> tuple[Columns, bool]:
    """The columns to read a file by, judged by its first row, and whether its rows are chats.

    Raises:
        InputError: neither the configured columns nor those of a known layout are there.
    """
    explicit = configured.model_fields_set
    if "messages" in explicit:
        _demand(values, configured, ("messages",), source)
        return configured, True
    missing = [key for key in ("question", "expert_solution") if getattr(configured, key) not in values]
    if missing and not explicit & {"question", "expert_solution"}:
        if "question" in values and "####" in str(values.get("answer")):
            return configured.model_copy(update={"question": "question", "expert_solution": "answer"}), False
        if configured.messages in values:
            return configured, True
    _demand(values, configured, ("question", "expert_solution"), source)
    return configured, False


def read_texts(values: Values, columns: Columns, is_chat: bool, kind: str = "math") -> Texts:
    """The texts of one row whose answer is of a kind of verification.

    Raises:
        Unusable: `no_question`, `no_expert_solution` or `not_one_turn`.
    """
    if is_chat:
        question, solution = _one_turn(values.get(columns.messages))
    else:
        question, solution = values.get(columns.question), values.get(columns.expert_solution)
    if not isinstance(question, str) or not question.strip():
        raise Unusable("no_question")
    if not isinstance(solution, str) or not solution.strip():
        raise Unusable("no_expert_solution")
    has_own = columns.answer in values and columns.answer != columns.expert_solution
    answer = gold_answer(values[columns.answer], kind) if has_own else final_answer(solution)
    return Texts(question, solution, answer if answer and answer.lower() not in _NO_ANSWERS else "")


def gold_answer(value: Any, kind: str = "math") -> str:
    """An answer cell as text; of a whole solution in GSM8K's layout, what follows `####`."""
    text = answer_text(value, kind)
    return final_answer(text) or text if "####" in text else text


def _one_turn(messages: Any) -> tuple[Any, Any]:
    """What the user and the assistant of a chat say, if each speaks once."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise Unusable("no_question")
    turns = [(message.get("role"), message.get("content")) for message in messages]
    if turns and turns[0][0] == "system":
        turns = turns[1:]
    roles = [role for role, _ in turns]
    if "user" not in roles:
        raise Unusable("no_question")
    if "assistant" not in roles:
        raise Unusable("no_expert_solution")
    if roles != ["user", "assistant"]:
        raise Unusable("not_one_turn")
    return turns[0][1], turns[1][1]


def _demand(values: Values, columns: Columns, keys: tuple[str, ...], source: str) -> None:
    for key in keys:
        name = getattr(columns, key)
        if name not in values:
            found = ", ".join(map(str, values)) or "none"
            raise InputError(f"{source}: no column '{name}'; found: {found}; name it in [data] columns.{key}")
