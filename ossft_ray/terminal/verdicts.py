"""The end of `ossft verify` on the terminal: the rows to show, the verdicts, and the file."""

from collections.abc import Iterator

from rich.text import Text

from ossft_ray.common.verdict import UNJUDGED
from ossft_ray.stages.verify import GradedRow, VerifySummary
from ossft_ray.terminal.bars import print_lines, wrapped
from ossft_ray.terminal.results import plain_table
from ossft_ray.terminal.show import escape_controls


def print_verification(summary: VerifySummary) -> None:
    """The rows to show, how many rows got which verdict, how fast, and the file of the verdicts."""
    table = plain_table("verdict", "rows", "share")
    for reason, count in summary.reasons.items():
        table.add_row(reason, f"{count:,}", f"{count / summary.num_rows:.1%}")
    over_limits = f"{summary.num_over_limits:,}" if summary.num_over_limits else "none"
    total = f"{summary.num_rows:,} rows, {summary.accuracy:.1%} correct, {over_limits} hit the time or memory limit"
    written = f" ({summary.num_written:,} of the rows)" if summary.only else ""
    lines = [f"{total}, {summary.verdicts_per_second:,.0f} verdicts/s", f"verdicts: {summary.output}{written}"]
    if summary.agreement is not None:
        lines.insert(0, f"agrees with {summary.agreement}")
    if UNJUDGED in summary.reasons:
        needs = "--kind judge, --set policy.model=MODEL, and a context that holds the texts"
        lines += wrapped(f"{UNJUDGED}: a judge needs {needs}")
    if absent := [reason for reason in summary.only if reason not in summary.reasons]:
        lines.append(f"no row has the verdict {' or '.join(absent)}")
    for row in summary.shown:
        print_lines([*_graded_row(row), ""])
    print_lines([table, *lines])


def _graded_row(row: GradedRow) -> Iterator[Text]:
    answers = f"answer {row.answer or '(none)'}, read {'(none)' if row.extracted is None else row.extracted}"
    yield Text(f"== row {row.number}: {row.reason}    {escape_controls(answers)}".replace("\n", " "), "bold")
    yield from (Text(escape_controls(line)) for line in (row.response or "").split("\n"))
