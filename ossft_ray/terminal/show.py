"""`ossft show`: what does a row look like? Its texts, attempts, rendered prompt and token ids, also during a run.

What a model wrote reaches a terminal here, so control characters come out as `\\x1b`, and nothing is taken as markup.
"""

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from rich.text import Text

from ossft_ray.common.errors import InputError
from ossft_ray.common.schema import EXAMPLE_SCHEMA, PROBLEM_SCHEMA
from ossft_ray.config import Policy
from ossft_ray.policy.chat import Chat, load_chat
from ossft_ray.run_folder.names import DROPPED_PARTS, PARTS
from ossft_ray.run_folder.reader import RunFolder, open_run

Row = dict[str, Any]
DROPPED = "dropped"
_ATTEMPTED = ("num_attempts", "num_correct", "attempts", "policy")
_KEPT = ("prompt", "completion", "response", "response_token_ids", "origin")
_DROPPED_COLUMNS = pa.schema([EXAMPLE_SCHEMA.field(name) for name in (*PROBLEM_SCHEMA.names, *_ATTEMPTED)])
_COLUMNS = pa.schema([EXAMPLE_SCHEMA.field(name) for name in (*PROBLEM_SCHEMA.names, *_KEPT, *_ATTEMPTED)])
# C0 and C1 but for tab and newline, delete, and the marks that turn the direction of writing around
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Parts:
    """Which parts of a row to show beside its texts."""

    attempts: bool = False
    tokens: bool = False
    prompt: bool = False


def show(
    run: str,
    origin: str | None = None,
    num_rows: int = 3,
    problem: str | None = None,
    parts: Parts | None = None,
) -> Iterator[Text]:
    """The first rows of a run, in the order of its problems, as lines to print.

    Args:
        run: a run's folder, a local path or an object-store URI; the run may still be under way.
        origin: only rows of this one of `self`, `guided`, `expert`, or problems that were `dropped`.
        num_rows: at most so many.
        problem: only rows of this problem.

    Raises:
        InputError: the folder holds no run, or no such row so far.
    """
    source, wanted = open_run(run), parts or Parts()
    rows = list(itertools.islice(_rows(source, origin, problem), num_rows))
    if not rows:
        of = (f" of origin {origin}" if origin else "") + (f" for problem {problem}" if problem else "")
        raise InputError(f"{run}: has no row{of}{'' if source.manifest else ' so far'}")
    yield _heading(source)
    chat: Chat | None = None
    if wanted.tokens or wanted.prompt:
        try:
            chat = load_chat(source.policy or Policy(model=rows[0]["policy"]))
        except InputError as error:
            yield _line(f"without the policy's tokenizer: {error}", "yellow")
    for row in rows:
        yield _line("")
        yield from _row_lines(row, wanted, chat)


def plain(text: str) -> str:
    r"""Text in which each control character but tab and newline is written out, so that a terminal does not obey it.

    >>> plain("a\x1b[31mb\n")
    'a\\x1b[31mb\n'
    """
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def _line(text: str, style: str = "") -> Text:
    return Text(plain(text), style)


def _heading(run: RunFolder) -> Text:
    done, total = run.progress()
    if run.manifest is not None:
        origins = ", ".join(f"{count} {origin}" for origin, count in run.manifest.get("origins", {}).items())
        return _line(f"{run.uri}: {done} problems" + (f" ({origins})" if origins else ""))
    of_all = f"{done} of {total}" if total is not None else f"{done}"
    return _line(f"{run.uri}: {of_all} problems so far")


def _rows(run: RunFolder, origin: str | None, problem: str | None) -> Iterator[Row]:
    dropped = origin == DROPPED
    for table in run.tables(*((_DROPPED_COLUMNS, DROPPED_PARTS) if dropped else (_COLUMNS, PARTS))):
        for row in table.to_pylist():
            row.setdefault("origin", DROPPED)
            if origin in (None, row["origin"]) and problem in (None, row["problem_id"]):
                yield row


def _row_lines(row: Row, parts: Parts, chat: Chat | None) -> Iterator[Text]:
    yield _line(f"== problem {row['problem_id']}    origin {row['origin']}    policy {row['policy']}", "bold")
    yield from _text("question", row["question"])
    yield from _text("answer", row["answer"])
    yield from _text("expert solution", row["expert_solution"])
    if parts.prompt and "prompt" in row:
        yield from _prompt(row["prompt"], chat)
    if "response" in row and row["response"] != row["expert_solution"]:
        yield from _text("kept response", row["response"])
    yield from _attempts(row["attempts"]) if parts.attempts else iter([_attempts_in_short(row)])
    if parts.tokens and "response_token_ids" in row:
        yield from _tokens("response", row["response_token_ids"], chat)


def _text(label: str, text: str | None) -> Iterator[Text]:
    yield _line(f"-- {label}", "dim")
    for line in ("(none)" if text is None else text).split("\n"):
        yield _line(line)


def _attempts_in_short(row: Row) -> Text:
    stages = []
    for stage in ("self", "guided"):
        reasons = Counter(attempt["reason"] for attempt in row["attempts"] if attempt["stage"] == stage)
        if reasons:
            stages.append(f"{stage}: {', '.join(f'{count} {reason}' for reason, count in reasons.items())}")
    return _line(f"-- {row['num_attempts']} attempts" + (f" ({'; '.join(stages)})" if stages else ""), "dim")


def _attempts(attempts: list[Row]) -> Iterator[Text]:
    yield _line(f"-- {len(attempts)} attempts", "dim")
    if not attempts:
        return
    names = ("stage", "index", "reason", "finish_reason", "num_tokens")
    lines = [["stage", "index", "reason", "finish", "tokens"]]
    lines += [[str(attempt[name]) for name in names] for attempt in attempts]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        yield _line("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    for attempt in attempts:
        if attempt["response"] is not None:
            yield from _text(f"attempt {attempt['stage']}/{attempt['index']}: {attempt['reason']}", attempt["response"])


def _prompt(messages: list[dict[str, str]], chat: Chat | None) -> Iterator[Text]:
    """The prompt as the policy gets it; without the policy, its messages."""
    if chat is None:
        for message in messages:
            yield from _text(f"prompt, message of the {message['role']}", message["content"])
        return
    token_ids = chat.render(messages)
    yield from _text("rendered prompt", chat.tokenizer.decode(token_ids))
    yield from _tokens("prompt", token_ids, chat)


def _tokens(label: str, token_ids: list[int], chat: Chat | None) -> Iterator[Text]:
    """Each token's id with its piece as a JSON string; a new line after each token that holds one."""
    yield _line(f"-- {len(token_ids)} tokens of the {label}", "dim")
    if chat is None:
        yield _line(" ".join(map(str, token_ids)))
        return
    line: list[str] = []
    for token in token_ids:
        piece = _piece(token, chat)
        line.append(f"{token} {json.dumps(piece, ensure_ascii=False)}")
        if "\n" in piece:
            yield _line("  ".join(line))
            line = []
    if line:
        yield _line("  ".join(line))


def _piece(token: int, chat: Chat) -> str:
    """A token's text; where that is a part of a character only, the tokenizer's own name for it."""
    piece = str(chat.tokenizer.decode([token]))
    return str(chat.tokenizer.convert_ids_to_tokens(token)) if "\ufffd" in piece else piece
