"""`ossft show`: rows of a run with their texts, attempts, rendered prompt and token ids, also while it is under way.

These texts come from a model. Control characters are written out, such as `\\x1b`, and nothing is taken as markup.
"""

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from ossft_ray.common.errors import InputError
from ossft_ray.common.schema import EXAMPLE_SCHEMA, PROBLEM_SCHEMA
from ossft_ray.config import Policy
from ossft_ray.policy.chat import Chat, load_chat
from ossft_ray.run_folder.names import DROPPED_PARTS, PARTS
from ossft_ray.run_folder.reader import RunFolder, columns, open_run

Row = dict[str, Any]
DROPPED = "dropped"
_ATTEMPTED = (*PROBLEM_SCHEMA.names, "num_attempts", "num_correct", "attempts", "policy")
_DROPPED_COLUMNS = columns(EXAMPLE_SCHEMA, *_ATTEMPTED)
_COLUMNS = columns(EXAMPLE_SCHEMA, *_ATTEMPTED, "prompt", "completion", "response", "response_token_ids", "origin")
# C0 and C1 except tab and newline, delete, and the marks that reverse the direction of writing
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class RowDetails:
    """What to show of a row besides its texts."""

    attempts: bool = False
    tokens: bool = False
    prompt: bool = False


def show(
    run: str,
    origin: str | None = None,
    num_rows: int = 3,
    problem: str | None = None,
    details: RowDetails | None = None,
) -> Iterator[Text]:
    """The first rows of a run, in the order of its problems, as lines to print.

    Args:
        run: a run's folder, a local path or an object-store URI; the run may be under way.
        origin: only rows of this one of `self`, `guided`, `expert`, or problems that were `dropped`.
        num_rows: at most this many.
        problem: only rows of this problem.
        details: what to show of each besides its texts.

    Raises:
        InputError: the folder holds no run, or no such row so far.
    """
    source, details = open_run(run), details or RowDetails()
    rows = list(itertools.islice(_rows(source, origin, problem), num_rows))
    if not rows:
        of = (f" of origin {origin}" if origin else "") + (f" for problem {problem}" if problem else "")
        raise InputError(f"{run}: has no row{of}{'' if source.rewrite_manifest else ' so far'}")
    yield _heading(source)
    chat: Chat | None = None
    if details.tokens or details.prompt:
        try:
            chat = load_chat(source.policy or Policy(model=rows[0]["policy"]))
        except InputError as error:
            yield _line(f"without the policy's tokenizer: {error}", "yellow")
    for row in rows:
        yield _line("")
        yield from _row_lines(row, details, chat)


def plain(text: str) -> str:
    r"""Text with each control character but tab and newline written out, so that a terminal does not obey it.

    >>> plain("a\x1b[31mb\n")
    'a\\x1b[31mb\n'
    """
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def _line(text: str, style: str = "") -> Text:
    return Text(plain(text), style)


def _heading(run: RunFolder) -> Text:
    done, total = run.progress()
    if run.rewrite_manifest is None:
        return _line(f"{run.name}: {done}{'' if total is None else f' of {total}'} problems so far")
    origins = ", ".join(f"{count} {origin}" for origin, count in run.rewrite_counts["origins"].items())
    return _line(f"{run.name}: {done} problems ({origins})")


def _rows(run: RunFolder, origin: str | None, problem: str | None) -> Iterator[Row]:
    schema, pattern = (_DROPPED_COLUMNS, DROPPED_PARTS) if origin == DROPPED else (_COLUMNS, PARTS)
    for table in run.tables(schema, pattern):
        for row in table.to_pylist():
            row.setdefault("origin", DROPPED)
            if origin in (None, row["origin"]) and problem in (None, row["problem_id"]):
                yield row


def _row_lines(row: Row, details: RowDetails, chat: Chat | None) -> Iterator[Text]:
    yield _line(f"== problem {row['problem_id']}    origin {row['origin']}    policy {row['policy']}", "bold")
    yield from _text("question", row["question"])
    yield from _text("answer", row["answer"])
    yield from _text("expert solution", row["expert_solution"])
    if details.prompt and "prompt" in row:
        yield from _prompt(row["prompt"], chat)
    if "response" in row and row["response"] != row["expert_solution"]:
        yield from _text("kept response", row["response"])
    yield from _attempts(row["attempts"]) if details.attempts else _attempts_in_short(row)
    if details.tokens and "response_token_ids" in row:
        yield from _tokens("response", row["response_token_ids"], chat)


def _text(label: str, text: str | None) -> Iterator[Text]:
    yield _line(f"-- {label}", "dim")
    yield from map(_line, ("(none)" if text is None else text).split("\n"))


def _attempts_in_short(row: Row) -> Iterator[Text]:
    reasons: dict[str, Counter[str]] = {}
    for attempt in row["attempts"]:
        reasons.setdefault(attempt["stage"], Counter())[attempt["reason"]] += 1
    stages = [
        f"{stage}: {', '.join(f'{count} {reason}' for reason, count in counts.items())}"
        for stage, counts in reasons.items()
    ]
    yield _line(f"-- {row['num_attempts']} attempts" + (f" ({'; '.join(stages)})" if stages else ""), "dim")


def _attempts(attempts: list[Row]) -> Iterator[Text]:
    yield _line(f"-- {len(attempts)} attempts", "dim")
    if not attempts:
        return
    lines = [["stage", "index", "reason", "finish", "tokens"]]
    names = ("stage", "index", "reason", "finish_reason", "num_tokens")
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
    """Each token's id with its piece as a JSON string; a new line after each piece that holds one."""
    yield _line(f"-- {len(token_ids)} tokens of the {label}", "dim")
    if chat is None:
        yield _line(" ".join(map(str, token_ids)))
        return
    line: list[str] = []
    for token in token_ids:
        piece = str(chat.tokenizer.decode([token]))
        if "\ufffd" in piece:  # a part of a character: the tokenizer's name for it says more
            piece = str(chat.tokenizer.convert_ids_to_tokens(token))
        line.append(f"{token} {json.dumps(piece, ensure_ascii=False)}")
        if "\n" in piece:
            yield _line("  ".join(line))
            line = []
    if line:
        yield _line("  ".join(line))
