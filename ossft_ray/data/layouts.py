r"""The layouts of known data sets: which texts of a row are the question, the answer and the expert's solution.

`docs/data.md` has the table of the layouts. A column that `[data] columns` names is read, and no other in its place.
For the rest, `NAMES` lists the names that data sets use, in order of preference; a name with a dot is a field of a
column. If a row has a column for the answer, only that column counts. If it is empty, `proof` or `notfound`, the row
has no answer, even if its solution has a box, because nobody has checked that box. The question of a chat is the user's
last message; what surrounds it, from the system message on, is its conversation.
"""

import contextlib
import json
import re
from dataclasses import dataclass
from typing import Any

from ossft_ray.common.errors import InputError
from ossft_ray.config import Columns
from ossft_ray.data.chats import Turn, UnusableRow, conversation_text, read_turns, split_chat
from ossft_ray.verification.answers import answer_text, final_answer

NAMES: dict[str, tuple[str, ...]] = {
    "id": ("id", "problem_id", "uuid"),
    "question": ("problem", "question", "query", "instruction", "extra_info.question", "prompt", "input"),
    "answer": ("answer", "final_answer", "expected_answer", "ground_truth", "reward_model.ground_truth"),
    "expert_solution": (
        *("solution", "expert_solution", "generated_solution", "r1_solution_1", "response", "output", "completion"),
        "extra_info.answer",  # of verl's GSM8K, where it is the whole solution
    ),
    "messages": ("messages", "conversations", "conversation"),
    "verifier": ("verifier",),
    "tools": ("tools",),
}
"""The columns of each text, for training data and benchmarks alike."""

_NOTE = re.compile(r"<<[-+*/().,:=%$\dxX ]*=[-+*/().,:=%$\dxX ]*>>")  # GSM8K's notes of calculations
_NO_ANSWERS = ("proof", "notfound")  # NuminaMath-1.5 writes these where a problem has no answer to compare with
_INFO_ANSWERS = ("reference_answer", "ground_truth")  # in the user's message of AM-Thinking's chats
# Generated data often ends with end tokens that were decoded too
_END_TOKENS = re.compile(
    r"(?:\s*(?:</s>|<eos>|<end_of_turn>|<\|(?:endoftext|im_end|eot_id|end_of_text|end|return|END_OF_TURN_TOKEN)\|>"
    r"|<｜end▁of▁sentence｜>))+\s*\Z"
)
# Words in the names of columns that may be a part of the question
_PART_OF_QUESTION = re.compile(
    r"input|context|option|choice|passage|image|figure|picture|background|premise|document|hint|system", re.IGNORECASE
)
_MISSING = object()


@dataclass(frozen=True)
class ProblemTexts:
    """The texts of a problem; `answer` is empty where the row has none that could be checked."""

    question: str
    expert_solution: str
    answer: str
    conversation: str = ""  # as in `Problem`


@dataclass(frozen=True)
class Layout:
    """The columns of a file that are read, judged by its first row."""

    columns: dict[str, str]  # by what they hold: `messages`, or `question` and `expert_solution`; and `context`
    configured: Columns
    unread: tuple[str, ...] = ()  # the other columns of the first row
    doubtful: tuple[str, ...] = ()  # those of them that may belong to the question

    @property
    def name(self) -> str:
        """The layout in a few words."""
        question, solution = (self.columns.get(role, "") for role in ("question", "expert_solution"))
        if "messages" in self.columns:
            return "chats"
        if {"question", "expert_solution"} & self.configured.model_fields_set:
            return "as configured"
        known = {"instruction": "Alpaca", "prompt": "prompt and completion", "extra_info.question": "verl"}
        return "GSM8K" if solution == "answer" else known.get(question, "question and solution")

    def column(self, role: str, values: dict[str, Any]) -> str | None:
        """The column of a row that holds its `id`, `answer` or `verifier`, or None."""
        taken = self.columns.values()
        names = [name for name in _names(role, self.configured) if name not in taken]
        return next((name for name in names if _value(values, name) is not _MISSING), None)

    def value(self, role: str, values: dict[str, Any]) -> Any:
        """The value of that column, or None."""
        name = self.column(role, values)
        return None if name is None else _value(values, name)

    def described(self, values: dict[str, Any]) -> dict[str, str]:
        """All columns that are read from a row, by what they hold."""
        roles = ("answer", "id", "verifier", *(["tools"] if self.value("tools", values) else []))
        others = {role: self.column(role, values) for role in roles}
        return self.columns | {role: name for role, name in others.items() if name is not None}


def choose_layout(
    values: dict[str, Any], configured: Columns, source: str, section: str = "data", needs_solution: bool = True
) -> Layout:
    """The layout of a file, judged by the values of its first row.

    `section` is that of `configured`. Benchmarks need no solutions.

    Raises:
        InputError: the row has neither the configured columns nor those of a known layout.
    """
    explicit = configured.model_fields_set
    for role in sorted(explicit):  # a name that equals the default is often written out, though the file lacks it
        is_default = getattr(configured, role) == Columns.model_fields[role].default
        if not is_default and _value(values, getattr(configured, role)) is _MISSING:
            raise _no_column(role, configured, values, source, section)
    columns: dict[str, str] = {}
    for role in ("question", "expert_solution"):
        name = next((name for name in _names(role, configured) if _value(values, name) is not _MISSING), None)
        if name is not None and name not in columns.values():
            columns[role] = name
    names = _names("messages", configured)
    has_chat = next((name for name in names if _value(values, name) is not _MISSING), None)
    is_short = "question" in columns and "expert_solution" not in columns
    if is_short and not {"answer", "expert_solution"} & explicit and _is_solution(values.get("answer")):
        columns["expert_solution"] = "answer"  # GSM8K's layout
    is_complete = "question" in columns and ("expert_solution" in columns or (not needs_solution and not has_chat))
    if has_chat and ("messages" in explicit or not (is_complete or {"question", "expert_solution"} & explicit)):
        columns = {"messages": has_chat}
    elif not is_complete:
        role = "expert_solution" if "question" in columns else "question"
        raise _no_column(role, configured, values, source, section)
    if context := _context(columns.get("question"), configured, values):
        columns["context"] = context
    layout = Layout(columns, configured)
    read = {name.partition(".")[0] for name in layout.described(values).values()}
    unread = tuple(str(name) for name in values if name not in read)
    doubtful = tuple(name for name in unread if _PART_OF_QUESTION.search(name))
    return Layout(columns, configured, unread, doubtful)


def read_texts(values: dict[str, Any], layout: Layout, kind: str = "math", strip: bool = False) -> ProblemTexts:
    """The texts of one row; `kind` is the kind of verification of its answer. `strip` removes annotations.

    Raises:
        UnusableRow: `no_question`, `no_expert_solution`, `broken_chat` or `not_text`.
    """
    question, conversation, solution, info = _question_and_solution(values, layout)
    answer: str | None
    if (name := layout.column("answer", values)) is not None:
        answer = answer_of_cell(_value(values, name), kind)
    else:
        stated = next((info[key] for key in _INFO_ANSWERS if info.get(key)), None)
        answer = final_answer(solution) if stated is None else answer_of_cell(stated, kind)
    solution = strip_annotations(solution) if strip else solution
    answer = answer if answer and answer.lower() not in _NO_ANSWERS else ""
    return ProblemTexts(question, solution, answer, conversation)


def read_question(values: dict[str, Any], layout: Layout) -> tuple[str, str]:
    """The question of one row, with its context, and the conversation that it belongs to.

    Raises:
        UnusableRow: see `read_texts`.
    """
    if "messages" in layout.columns:
        asked, _ = split_chat(_chat(values, layout.columns["messages"]), needs_solution=False)
        return _asked(asked, layout, values, layout.columns["messages"])
    name = layout.columns["question"]
    if isinstance(_value(values, name), list) and (turns := read_turns(_value(values, name))) is not None:
        question, conversation = _asked(split_chat(turns, needs_solution=False)[0], layout, values, name)
    else:
        question = _required(_text(_value(values, name)), "no_question", name, _value(values, name))
        is_configured = "tools" in layout.configured.model_fields_set  # else the column may hold anything
        tools = layout.value("tools", values) if is_configured else None
        conversation = conversation_text([Turn("user", question)], tools)
    context_name = layout.columns.get("context", "")
    context = _cell_text(_value(values, context_name), "user") if context_name else None
    if not context or not context.strip():
        return question, conversation
    # Alpaca's `input` is what its instruction works on; any other context is what the question refers to
    joined = f"{question}\n\n{context}" if context_name == "input" else f"{context}\n{question}"
    return joined, conversation


def strip_annotations(solution: str) -> str:
    """A solution without GSM8K's `<<48/2=24>>` notes and the `####` tail that states its answer.

    >>> strip_annotations("He sold 48/2 = <<48/2=24>>24 clips.\\n#### 24")
    'He sold 48/2 = 24 clips.'
    """
    plain = _NOTE.sub("", solution)
    body, found, tail = plain.rstrip().rpartition("\n####")
    return body.rstrip() if found and body.strip() and "\n" not in tail else plain


def answer_of_cell(value: Any, kind: str = "math") -> str:
    """An answer cell as text; if the cell is a whole solution in GSM8K's layout, the text after its `####`.

    A one-item list written as JSON text (Skywork-OR1's layout) counts as its item.
    """
    if isinstance(value, str) and value.startswith('["') and value.endswith('"]'):
        with contextlib.suppress(ValueError, RecursionError):
            value = items[0] if len(items := json.loads(value)) == 1 else value
    text = strip_end_tokens(answer_text(value, kind))
    return final_answer(text) or text if "####" in text else text


def strip_end_tokens(text: str) -> str:
    """A text without the end tokens that were decoded into it.

    >>> strip_end_tokens("#### 5<|im_end|></s>")
    '#### 5'
    """
    return _END_TOKENS.sub("", text) if text.rstrip().endswith(">") else text


def _question_and_solution(values: dict[str, Any], layout: Layout) -> tuple[str, str, str, dict[str, Any]]:
    """Question, conversation, solution, and the `info` of the question's message."""
    if "messages" in layout.columns:
        name = layout.columns["messages"]
        asked, written = split_chat(_chat(values, name))
        solution = strip_end_tokens(_required(written, "no_expert_solution", name))
        return *_asked(asked, layout, values, name), solution, _last_question(asked).info
    name = layout.columns["expert_solution"]
    question, conversation = read_question(values, layout)
    written = _required(_cell_text(_value(values, name), "assistant"), "no_expert_solution", name, _value(values, name))
    return question, conversation, strip_end_tokens(written), {}


def _asked(asked: list[Turn], layout: Layout, values: dict[str, Any], name: str) -> tuple[str, str]:
    """The question and the conversation of the turns that a column holds."""
    question = _required(_last_question(asked).text, "no_question", name)
    return question, conversation_text(asked, layout.value("tools", values))


def _last_question(asked: list[Turn]) -> Turn:
    return next(turn for turn in reversed(asked) if turn.role == "user")


def _chat(values: dict[str, Any], name: str) -> list[Turn]:
    value = _value(values, name)
    if (turns := read_turns(value)) is not None:
        return turns
    if value is _MISSING:
        raise UnusableRow(f"no_question: no column '{name}' in this row")
    raise UnusableRow("no_question" + (f": column '{name}' holds {_kind(value)}, not a chat" if value else ""))


def _cell_text(value: Any, role: str) -> str | None:
    """The text of a cell: text as is, or a chat's only message with this role."""
    if isinstance(value, list) and (turns := read_turns(value)) is not None:
        texts = [turn.text for turn in turns if turn.role == role]
        if len(texts) > 1:
            raise UnusableRow("broken_chat: several messages, where one was expected")
        return texts[0] if texts else None
    return _text(value)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _required(text: str | None, reason: str, name: str, value: Any = None) -> str:
    if value is _MISSING:
        raise UnusableRow(f"{reason}: no column '{name}' in this row")
    if text is None or not text.strip():
        is_other = value is not None and not isinstance(value, str)
        raise UnusableRow(f"{reason}: column '{name}' holds {_kind(value)}, not text" if is_other else reason)
    return text


def _kind(value: Any) -> str:
    kinds = {str: "text", bytes: "bytes that are not UTF-8", dict: "an object", list: "a list", bool: "true or false"}
    return kinds.get(type(value), "a number")


def _value(values: dict[str, Any], name: str) -> Any:
    """The value of a column, or of a field of one (`reward_model.ground_truth`); `_MISSING` if there is none."""
    if name in values or "." not in name:
        return values.get(name, _MISSING)
    first, _, rest = name.partition(".")
    inner = values.get(first)
    return _value(inner, rest) if isinstance(inner, dict) else _MISSING


def _names(role: str, configured: Columns) -> tuple[str, ...]:
    own: str = getattr(configured, role)
    return (own,) if role in configured.model_fields_set else NAMES[role]


def _context(question: str | None, configured: Columns, values: dict[str, Any]) -> str | None:
    """The column of text that belongs to the question, such as Alpaca's `input`."""
    if configured.context:
        return configured.context
    if question is None or "question" in configured.model_fields_set:
        return None
    names = ("input", "context") if question == "instruction" else ("context",)
    return next((name for name in names if isinstance(values.get(name, 0), str | None)), None)


def _is_solution(answer: Any) -> bool:
    """Whether an answer cell is a whole solution, with its answer marked."""
    return isinstance(answer, str) and (
        "####" in answer or (final_answer(answer) is not None and " " in answer.strip())
    )


def _no_column(role: str, configured: Columns, values: dict[str, Any], source: str, section: str) -> InputError:
    message = f"{source}: no column '{getattr(configured, role)}'; found: {', '.join(map(str, values)) or 'none'}"
    message += f"; name it in [{section}] columns.{role}"
    if role == "expert_solution" and role not in configured.model_fields_set:
        answer = next((name for name in NAMES["answer"] if _value(values, name) is not _MISSING), None)
        if answer is not None:
            message += f"; the answers are in '{answer}'; name that column if it holds whole solutions"
    rows = next((name for name, value in values.items() if isinstance(value, list) and len(values) <= 2), None)
    if rows is not None and all(isinstance(each, dict) for each in values[rows]):
        message += f"; if '{rows}' is a list of the rows, write these to a file, one a line"
    return InputError(message)
