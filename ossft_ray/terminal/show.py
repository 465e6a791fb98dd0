"""`ossft show`: rows of a run with their texts, attempts, rendered prompt and token ids, also while it is under way.

These texts come from a model. Control characters are written out, such as `\\x1b`, and nothing is taken as markup.
"""

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.text import Text

from ossft_ray.common.errors import InputError
from ossft_ray.common.schema import DROPPED_SCHEMA, EXAMPLE_SCHEMA
from ossft_ray.config import Policy
from ossft_ray.method.suspects import RankedSuspect, Suspects
from ossft_ray.policy.chat import Chat, load_chat
from ossft_ray.policy.example_tokens import render_prompt
from ossft_ray.run_folder.names import DROPPED_PARTS, PARTS
from ossft_ray.run_folder.reader import RunFolder, columns, open_run
from ossft_ray.terminal.bars import wrapped
from ossft_ray.terminal.results import counts_text

Row = dict[str, Any]
DROPPED = "dropped"
_RESPONSE = ("prompt", "completion", "response", "response_token_ids", "origin")
_COLUMNS = columns(EXAMPLE_SCHEMA, *DROPPED_SCHEMA.names, *_RESPONSE)
# C0 and C1 except tab and newline, delete, and the marks that reverse the direction of writing
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def show(
    run: str,
    origin: str | None = None,
    num_rows: int = 3,
    problem: str | None = None,
    attempts: bool = False,
    prompt: bool = False,
    tokens: bool = False,
    suspects: bool = False,
) -> Iterator[Text]:
    """The first rows of a run, in the order of its problems, as lines to print.

    Args:
        run: a run's folder, a local path or an object-store URI; the run may be under way.
        origin: only rows of this one of `self`, `guided`, `external`, `expert`, or problems that were `dropped`.
        num_rows: at most this many.
        problem: only rows of this problem.
        attempts, prompt, tokens: what to show of each row besides its texts.
        suspects: only problems whose gold answer is suspect, the strongest evidence first.

    Raises:
        InputError: the folder holds no run, or no such row so far, or the policy that a prompt or tokens need is gone.
    """
    source = open_run(run)
    found = source.suspects if suspects else None
    if found is not None and not found.ranked:
        yield _heading(source)
        yield _line("no suspect gold answers: no problem's attempts agree on another answer")
        yield from _bad_golds(source, num_rows)
        return
    rows = list(itertools.islice(_rows(source, origin, problem, found), num_rows))
    if not rows:
        of = " with a suspect gold answer" if suspects else ""
        of += (f" of origin {origin}" if origin else "") + (f" for problem {problem}" if problem else "")
        raise InputError(f"{run}: has no row{of}{'' if source.rewrite_manifest else ' so far'}")
    chat = load_chat(source.policy or Policy(model=rows[0]["policy"])) if prompt or tokens else None
    yield _heading(source)
    if found:
        count = f"{len(rows)} of {len(found.ranked)} suspect gold answers, most evidence first."
        yield from map(_line, wrapped(f"{count} {found.note}"))
        yield from _bad_golds(source, num_rows)
    for row in rows:
        yield _line("")
        yield _line(f"== problem {row['problem_id']}    origin {row['origin']}    policy {row['policy']}", "bold")
        yield from _text("question", row["question"])
        yield from _text("answer", row["answer"])
        if found:
            yield from _suspect(next(each for each in found.ranked if each.problem_id == row["problem_id"]))
        yield from _text("expert solution", row["expert_solution"])
        if chat and prompt and "prompt" in row:
            token_ids = render_prompt(row, chat)
            yield from _text("rendered prompt", chat.tokenizer.decode(token_ids))
            yield from _tokens("prompt", token_ids, chat)
        if "response" in row and row["response"] != row["expert_solution"]:
            yield from _text("kept response", row["response"])
        yield from _attempts(row["attempts"]) if attempts else _attempts_in_short(row)
        if chat and tokens and "response_token_ids" in row:
            yield from _tokens("response", row["response_token_ids"], chat)


def escape_controls(text: str) -> str:
    r"""Text with each control character but tab and newline written out, so that a terminal does not obey it.

    >>> escape_controls("a\x1b[31mb\n")
    'a\\x1b[31mb\n'
    """
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def _line(text: str, style: str = "") -> Text:
    return Text(escape_controls(text), style)


def _heading(run: RunFolder) -> Text:
    done, total = run.progress()
    if not run.rewrite_manifest:
        return _line(f"{run.name}: {done}{'' if total is None else f' of {total}'} problems so far")
    origins = ", ".join(f"{count} {origin}" for origin, count in run.rewrite_counts["origins"].items())
    return _line(f"{run.name}: {done} problems ({origins})")


def _rows(run: RunFolder, origin: str | None, problem: str | None, suspects: Suspects | None = None) -> Iterator[Row]:
    """The rows of a run in the order of its problems, or one row of each suspect problem by rank."""
    if suspects is None:
        patterns, ids = [DROPPED_PARTS if origin == DROPPED else PARTS], None
    else:
        patterns, ids = [PARTS, DROPPED_PARTS], [suspect.problem_id for suspect in suspects.ranked]
    rows = (row for pattern in patterns for row in _rows_of_parts(run, pattern, ids if problem is None else [problem]))
    rows = (row for row in rows if origin in (None, row["origin"]))
    if ids is None:
        yield from rows
    else:
        by_id = {row["problem_id"]: row for row in rows}
        yield from (by_id[problem_id] for problem_id in ids if problem_id in by_id)


def _rows_of_parts(run: RunFolder, pattern: str, ids: list[str] | None) -> Iterator[Row]:
    for table in run.tables(_COLUMNS if pattern == PARTS else DROPPED_SCHEMA, pattern):
        chosen = table if ids is None else table.filter(pc.is_in(table["problem_id"], pa.array(ids, pa.string())))
        yield from ({"origin": DROPPED, **row} for row in chosen.to_pylist())


def _bad_golds(run: RunFolder, num_shown: int) -> Iterator[Text]:
    """The gold answers that cannot be read, or that the expert's solution contradicts."""
    bad = run.rewrite_manifest.get("bad_golds", [])
    if bad:
        yield _line(f"{min(num_shown, len(bad))} of {len(bad)} gold answers that the check of the data doubts:")
    for gold in bad[:num_shown]:
        solution = f", the solution says {gold['solution_says']}" if "solution_says" in gold else ""
        yield _line(f"  {gold['problem_id']}: {gold['finding']}: the answer is {gold['answer']}{solution}")


def _suspect(suspect: RankedSuspect) -> Iterator[Text]:
    agreement = f"{suspect.num_agreeing} of {suspect.num_attempts} attempts, evidence {suspect.evidence:.2f}"
    yield from _text(f"agreed answer ({agreement})", suspect.agreed_answer)


def _text(label: str, text: str | None) -> Iterator[Text]:
    yield _line(f"-- {label}", "dim")
    yield from map(_line, ("(none)" if text is None else text).split("\n"))


def _attempts_in_short(row: Row) -> Iterator[Text]:
    reasons: dict[str, Counter[str]] = {}
    for attempt in row["attempts"]:
        reasons.setdefault(attempt["stage"], Counter())[attempt["reason"]] += 1
    stages = [f"{stage}: {counts_text(counts)}" for stage, counts in reasons.items()]
    yield _line(f"-- {row['num_attempts']} attempts" + (f" ({'; '.join(stages)})" if stages else ""), "dim")


def _attempts(attempts: list[Row]) -> Iterator[Text]:
    yield _line(f"-- {len(attempts)} attempts", "dim")
    for attempt in attempts:
        how = f"{attempt['reason']}, {attempt['num_tokens']} tokens, {attempt['finish_reason']}"
        yield _line(f"-- attempt {attempt['stage']}/{attempt['index']}: {how}", "dim")
        if attempt["response"] is not None:
            yield from map(_line, attempt["response"].split("\n"))


def _tokens(label: str, token_ids: list[int], chat: Chat) -> Iterator[Text]:
    """Each token's id with its piece as a JSON string; a new line after each piece that holds one."""
    yield _line(f"-- {len(token_ids)} tokens of the {label}", "dim")
    line: list[str] = []
    for token in token_ids:
        piece = str(chat.tokenizer.decode([token]))
        if "\ufffd" in piece:  # a part of a character: the tokenizer's name for it is more useful
            piece = str(chat.tokenizer.convert_ids_to_tokens(token))
        line.append(f"{token} {json.dumps(piece, ensure_ascii=False)}")
        if "\n" in piece:
            yield _line("  ".join(line))
            line = []
    if line:
        yield _line("  ".join(line))
