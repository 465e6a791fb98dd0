"""The console: lines, and a progress bar for each stage with counts, rates and the time left."""

import textwrap
import time
from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

from rich.console import Console, RenderableType
from rich.progress import Progress, ProgressColumn, Task, TaskID
from rich.text import Text

from ossft_ray.common.durations import duration
from ossft_ray.common.streams import separate_stderr
from ossft_ray.common.types import PAPERS_STAGES, count_origins

_PLAIN_SECONDS = 60.0  # between lines where there is no terminal to draw a bar on
_BAR_WIDTHS = (24, 12)  # characters: the usual one, and that of a narrow terminal
_RATE_SECONDS = 2.0  # of work before there is a rate
_KNOWN_SHARE, _KNOWN_NUMBER = 0.05, 5  # of the session's work must be done before the time left can be known

# What is printed comes from users and models: nothing in it is markup or the name of an emoji.
console = Console(highlight=False, markup=False, emoji=False)


def print_lines(lines: Iterable[RenderableType]) -> None:
    """Print lines and tables. Lines are not wrapped, and nothing in them is read as markup."""
    for line in lines:
        console.print(line, markup=False, soft_wrap=isinstance(line, str | Text))


def wrapped(text: str) -> list[str]:
    """A sentence as lines that break between words on a terminal; elsewhere it stays one line."""
    return textwrap.wrap(text, console.width, subsequent_indent="    ") if console.is_terminal else [text]


class Detail(NamedTuple):
    """A word of a bar. Where the terminal is too narrow, those of the highest rank are left out."""

    rank: int
    text: str


class Bar(NamedTuple):
    """What a bar shows."""

    done: int
    total: int
    unit: str
    details: list[Detail]

    def line(self, num_details: int | None = None) -> str:
        """The counts and the details, of which `num_details` are kept."""
        kept = sorted(self.details)[:num_details]
        return "  ".join([f"{self.done}/{self.total} {self.unit}", *(d.text for d in self.details if d in kept)])


class StageBars:
    """A bar for each stage in turn; `begin(stage)` returns the `on_progress` that moves it.

    Without a terminal it prints a line when a stage begins, one a minute, and one when all is done.
    """

    def __init__(self) -> None:
        self._progress = Progress(_Line(), console=console, disable=not console.is_terminal)
        self._bars: dict[str, TaskID] = {}
        self._finished: set[str] = set()
        self._printed, self._printed_at = "", 0.0

    def __enter__(self) -> "StageBars":
        # A stage diverts file descriptor 2 to a log. When the bars end, rich restores the stderr that it finds
        # here; if that wrote to descriptor 2, the command's last lines would go to the log.
        separate_stderr()
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._remove_starting()
        self._progress.stop()

    def begin(self, stage: str) -> Any:
        """The `on_progress` of one stage."""
        self._remove_starting()
        self._bars, self._finished = {}, set()  # each round has its own bars
        self._printed_at = time.monotonic()
        if console.is_terminal:
            self._show(stage, "starting")
        else:
            print_lines([f"{stage} ..."])
        on_progress: Any = partial(self._on_progress, stage)
        on_progress.hears_announcements = True
        return on_progress

    def _on_progress(self, stage: str, totals: dict[str, Any]) -> None:
        name = totals.get("model", stage)
        if note := totals.get("note"):
            print_lines([f"  {note}"])
        elif totals.get("already_complete"):
            what = stage if name == stage else f"{stage} ({name})"
            self._remove_starting()
            print_lines([f"{what} is already complete; nothing was done"])
        elif starting := totals.get("starting"):
            self._show(name, starting)
        else:
            self._show(name, _DESCRIBE[stage](totals))

    def _show(self, name: str, shown: Bar | str) -> None:
        """Move the bar `name`, or say what is starting before there is something to count."""
        is_finished = isinstance(shown, Bar) and shown.done == shown.total
        if name in self._finished:
            return  # its workers are ending
        if name not in self._bars or isinstance(shown, Bar):
            self._remove_starting(keep=name)
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(name, total=None, shown=shown)
        self._progress.update(self._bars[name], shown=shown)
        if is_finished:
            self._finished.add(name)
            self._progress.stop_task(self._bars[name])
        line = f"  {name}: {shown.line() if isinstance(shown, Bar) else shown}"
        is_due = is_finished or time.monotonic() - self._printed_at > _PLAIN_SECONDS
        if is_due and line != self._printed and not console.is_terminal:
            self._printed, self._printed_at = line, time.monotonic()
            print_lines([line])

    def _remove_starting(self, keep: str = "") -> None:
        """Remove bars that never had anything to count."""
        for task in self._progress.tasks:
            if isinstance(task.fields["shown"], str) and task.description != keep:
                self._progress.remove_task(task.id)
                self._bars.pop(task.description, None)


class _Line(ProgressColumn):
    """A whole line, which fits the terminal: details are left out rather than cut."""

    max_refresh = None

    def render(self, task: Task) -> Text:
        shown, width = task.fields["shown"], console.width
        minutes, seconds = divmod(int(task.elapsed or 0), 60)
        elapsed = f"{minutes}:{seconds:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
        if isinstance(shown, str):
            return Text(f"{task.description:<9} {shown} ...  {elapsed}", overflow="ellipsis", no_wrap=True)
        for num_details in range(len(shown.details), -1, -1):
            for bar_width in _BAR_WIDTHS:
                text = _assemble(task.description, shown, bar_width, elapsed, num_details)
                if text.cell_len <= width:
                    return text
        return Text(f"{task.description} {shown.line(0)}", overflow="ellipsis", no_wrap=True)


def _assemble(name: str, bar: Bar, bar_width: int, elapsed: str, num_details: int) -> Text:
    full = bar_width * bar.done // bar.total if bar.total else bar_width
    counts, *details = bar.line(num_details).split("  ")
    return Text.assemble(
        f"{name:<9} ",
        ("━" * full, "progress.complete" if bar.done < bar.total else "progress.remaining"),
        ("━" * (bar_width - full), "bar.back"),
        "  ".join([f" {counts}", elapsed, *details]),
        no_wrap=True,
    )


def _rewrite(totals: dict[str, Any]) -> Bar:
    problems = totals.get("problems", 0)
    counts = count_origins(totals, totals.get("stages", PAPERS_STAGES)) if problems else {}
    shares = [f"{origin} {count / problems:.0%}" for origin, count in counts.items()]
    return _sampling(totals, [Detail(3 + number, share) for number, share in enumerate(shares)])


def _evaluate(totals: dict[str, Any]) -> Bar:
    samples = totals.get("samples", 0)
    return _sampling(totals, [Detail(2, f"accuracy {totals['correct'] / samples:.1%}")] if samples else [])


def _sampling(totals: dict[str, Any], details: list[Detail]) -> Bar:
    """The bar of a stage that samples; a policy's rate is its engine's tokens over the time it spent sampling."""
    total, done_now = totals["total"], totals.get("problems", 0)
    done = min(total, totals["done_before"] + done_now)
    num_policies, seconds = totals.get("policies", 0), totals.get("sampling_ms", 0) / 1000
    tokens = totals.get("sampled_tokens", 0)
    if not num_policies and not done_now:
        return Bar(done, total, "problems", [Detail(0, "loading the policy")])
    if not done_now:
        draws = f"{totals.get('draws', 0):,} draws done, {totals.get('requests', 0):,} under way"
        details = [Detail(2, draws), Detail(3, f"{tokens:,} tokens")]
    if seconds and tokens and (seconds >= _RATE_SECONDS * num_policies or done == total):
        policies = f"{num_policies} × " if num_policies > 1 else ""
        details = [*details, Detail(1, f"{policies}{tokens / seconds:,.0f} tokens/s")]
        details += _left(seconds / num_policies, done_now, total - totals["done_before"])
    return Bar(done, total, "problems", details)


def _train(metrics: dict[str, Any]) -> Bar:
    step, num_steps = metrics["step"], metrics["num_steps"]
    details = [Detail(2, f"loss {metrics['loss']:.4f}"), Detail(3, f"cross-entropy {metrics['cross_entropy']:.4f}")]
    details.append(Detail(1, f"{metrics['tokens_per_second']:,.0f} tokens/s"))
    seconds_left = (num_steps - step) * metrics["seconds"]
    return Bar(step, num_steps, "steps", details + _time_left(seconds_left))


def _score(totals: dict[str, Any]) -> Bar:
    total, parts, seconds = totals["total"], totals["parts"], totals["seconds"]
    done = totals["done_before"] + parts
    if not parts:
        return Bar(done, total, "parts", [Detail(0, "loading, then the first part")])
    details = [Detail(1, f"{totals['tokens'] / seconds:,.0f} tokens/s")] if seconds else []
    return Bar(done, total, "parts", details + _time_left(seconds / parts * (total - done)))


def _verify(totals: dict[str, Any]) -> Bar:
    rows, total, seconds = totals["rows"], totals["total"], totals["seconds"]
    if not rows:
        return Bar(rows, total, "rows", [])
    details = [Detail(2, f"correct {totals['correct'] / rows:.1%}")]
    if seconds >= _RATE_SECONDS:
        details.append(Detail(1, f"{rows / seconds:,.0f} verdicts/s"))
        details += _left(seconds, rows, total)
    return Bar(rows, total, "rows", details)


def _derive(totals: dict[str, Any]) -> Bar:
    return Bar(totals["parts"], totals["total"], "parts", _left(totals["seconds"], totals["parts"], totals["total"]))


def _left(seconds: float, done: int, total: int) -> list[Detail]:
    """The time left at the pace so far, once enough is done for it to be known."""
    if done < max(_KNOWN_NUMBER, _KNOWN_SHARE * total):
        return []
    return _time_left(seconds / done * (total - done))


def _time_left(seconds: float) -> list[Detail]:
    return [Detail(0, f"{duration(seconds)} left")] if seconds >= 1 else []


_DESCRIBE = {
    "rewrite": _rewrite,
    "score": _score,
    "evaluate": _evaluate,
    "train": _train,
    "verify": _verify,
    "derive": _derive,
}
