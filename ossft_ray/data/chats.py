"""Chats as data sets write them: `role` and `content`, or ShareGPT's `from` and `value`; text, or a list of parts."""

import json
from dataclasses import dataclass, field
from typing import Any

_ROLES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "developer": "system",
}


class UnusableRow(Exception):
    """A row that cannot be used; the message is the reason, which starts with a short word."""


@dataclass(frozen=True)
class Turn:
    """One message; `text` is None if it has none."""

    role: str  # system, user, assistant, or any other name
    text: str | None
    info: dict[str, Any] = field(default_factory=dict)  # what the message says about itself (AM-Thinking's layout)


def read_turns(value: Any) -> list[Turn] | None:
    """The messages of a chat, which may be JSON text; None if the value is no chat.

    Raises:
        UnusableRow: `not_text: ...`, for a message with an image or the like.
    """
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    is_chat = isinstance(value, list) and bool(value) and all(map(_is_turn, value))
    return [_turn(message) for message in value] if is_chat else None


def one_turn(turns: list[Turn]) -> tuple[Turn, Turn]:
    """The user's and the assistant's message of a chat of one turn, after a system message if there is one.

    Raises:
        UnusableRow: `no_question`, `no_expert_solution` or `not_one_turn`.
    """
    turns = turns[1:] if turns[0].role == "system" else turns
    roles = [turn.role for turn in turns]
    if "user" not in roles:
        raise UnusableRow(_missing("no_question", "user", roles))
    if "assistant" not in roles:
        raise UnusableRow(_missing("no_expert_solution", "assistant", roles))
    if roles != ["user", "assistant"]:
        raise UnusableRow("not_one_turn")
    return turns[0], turns[1]


def message_text(value: Any) -> str | None:
    """The text of a message's content: of a string, or of the text parts of a list; None if it has none.

    Raises:
        UnusableRow: `not_text: ...`, for any other part.
    """
    if not isinstance(value, list):
        return value if isinstance(value, str) else None
    texts = []
    for part in value:
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        text = part.get("text") if isinstance(part, dict) else part
        if kind not in ("text", "input_text", "output_text") or not isinstance(text, str):
            raise UnusableRow(f"not_text: a message holds a part of type '{kind}'")
        texts.append(text)
    return "\n".join(texts)


def _is_turn(message: Any) -> bool:
    return isinstance(message, dict) and ("role" in message or "from" in message)


def _turn(message: dict[str, Any]) -> Turn:
    role = str(message.get("role") or message.get("from") or "").lower()
    content = next((message[name] for name in ("content", "value", "text") if message.get(name) is not None), None)
    info = message.get("info")
    return Turn(_ROLES.get(role, role), message_text(content), info if isinstance(info, dict) else {})


def _missing(reason: str, role: str, roles: list[str]) -> str:
    others = [name for name in dict.fromkeys(roles) if name not in ("system", "user", "assistant")]
    return f"{reason}: no message of the {role}, but of {', '.join(map(repr, others))}" if others else reason
