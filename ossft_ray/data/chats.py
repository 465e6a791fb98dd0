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
    "observation": "tool",
}
_SPEAKERS = ("system", "user", "assistant", "tool")
_CALLS = {"assistant": ("tool_calls",), "tool": ("tool_call_id", "name")}  # what templates read about tools, by role


class UnusableRow(Exception):
    """A row that cannot be used; the message is the reason, which starts with a short word."""


@dataclass(frozen=True)
class Turn:
    """One message; `text` is None if it has none."""

    role: str  # system, user, assistant, tool, or any other name
    text: str | None
    info: dict[str, Any] = field(default_factory=dict)  # the message's `info` (AM-Thinking's layout)
    calls: dict[str, Any] = field(default_factory=dict)  # the tool calls that it makes, or the one that it answers


def read_turns(value: Any) -> list[Turn] | None:
    """The messages of a chat, which may be JSON text; None if the value is not a chat.

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


def split_chat(turns: list[Turn], needs_solution: bool = True) -> tuple[list[Turn], str | None]:
    """The turns of a chat before the assistant's answer, and the text of that answer.

    Raises:
        UnusableRow: `no_question`, `no_expert_solution`, or `broken_chat: ...` for a chat that is not a conversation.
    """
    roles = [turn.role for turn in turns]
    if "user" not in roles:
        raise UnusableRow(_missing("no_question", "user", roles))
    if "assistant" not in roles and needs_solution:
        raise UnusableRow(_missing("no_expert_solution", "assistant", roles))
    asked, solution = (turns[:-1], turns[-1].text) if roles[-1] == "assistant" else (turns, None)
    if roles[-1] != "assistant" and needs_solution:
        raise UnusableRow(f"broken_chat: the last message is the {roles[-1]}'s")
    if other := next((turn.role for turn in asked if turn.role not in _SPEAKERS), None):
        raise UnusableRow(f"broken_chat: a message of '{other}'")
    if any(turn.role == "system" for turn in asked[1:]):
        raise UnusableRow("broken_chat: a system message that is not the first")
    if not asked or asked[-1].role not in ("user", "tool"):
        raise UnusableRow("broken_chat: no message of the user before the answer")
    return asked, solution


def conversation_text(asked: list[Turn], tools: Any = None) -> str:
    """`Problem.conversation` of these turns: empty if there is only the question.

    Raises:
        UnusableRow: the tools are not a list of objects.
    """
    if isinstance(tools, str):
        try:
            tools = json.loads(tools or "[]")
        except (ValueError, RecursionError):
            raise UnusableRow("broken_chat: the tools are not JSON") from None
    if tools and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        raise UnusableRow("broken_chat: the tools are not a list of objects")
    messages = [{"role": turn.role, "content": turn.text or "", **turn.calls} for turn in asked]
    if tools:
        messages[0]["tools"] = tools
    is_plain = len(messages) == 1 and messages[0].keys() == {"role", "content"}
    return "" if is_plain else json.dumps(messages, ensure_ascii=False)


def message_text(value: Any) -> str | None:
    """The text of a message's content: a string, or the text parts of a list; None if it has none.

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
    role = _ROLES.get(role, role)
    calls = {name: message[name] for name in _CALLS.get(role, ()) if message.get(name)}
    return Turn(role, message_text(content), info if isinstance(info, dict) else {}, calls)


def _missing(reason: str, role: str, roles: list[str]) -> str:
    others = [name for name in dict.fromkeys(roles) if name not in ("system", "user", "assistant")]
    return f"{reason}: no message of the {role}, only of {', '.join(map(repr, others))}" if others else reason
