"""The console: lines, and a progress bar for each stage with counts, rates and the time left."""

import time
from collections.abc import Iterable
from functools import partial
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from ossft_ray.common.durations import duration
from ossft_ray.common.types import ORIGINS

_PLAIN_SECONDS = 15.0  # between lines where there is no terminal to draw a bar on

# What is printed comes from users and models: nothing in it is markup or the name of an emoji.
console = Console(highlight=False, markup=False, emoji=False)


def print_lines(lines: Iterable[RenderableType]) -> None:
    """Print lines and tables. Lines are not wrapped, and nothing in them is read as markup."""
    for line in lines:
        console.print(line, markup=False, soft_wrap=isinstance(line, str | Text))


class StageBars:
    """A bar for each stage in turn; `begin(stage)` returns the `on_progress` that moves it."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description:<9}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:>5.0f}/{task.total:.0f} {task.fields[unit]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[details]}", markup=False),
        )
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._bars: dict[str, TaskID] = {}
        self._rates: dict[str, _SamplingRate] = {}
        self._printed, self._printed_at = "", 0.0

    def __enter__(self) -> "StageBars":
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def begin(self, stage: str) -> Any:
        """The `on_progress` of one stage."""
        if not console.is_terminal:
            print_lines([f"{stage} ..."])
        return partial(self._on_progress, stage)

    def _on_progress(self, stage: str, totals: dict[str, Any]) -> None:
        name = totals.get("model", stage)
        if note := totals.get("note"):
            print_lines([f"  {note}"])
            return
        if totals.get("already_complete"):
            what = stage if name == stage else f"{stage} ({name})"
            print_lines([f"{what} is already complete; nothing was done"])
            return
        rate = self._rates.setdefault(name, _SamplingRate())
        done, total, unit, words = _DESCRIBE[stage](totals, rate)
        details = "  ".join(words)
        if name not in self._bars:
            label = stage if name == stage else f"  {name}"
            self._bars[name] = self._progress.add_task(label, total=total, unit=unit, details=details)
        self._progress.update(self._bars[name], completed=done, total=total, details=details)
        line = f"  {name}: {done}/{total} {unit}  {details}"
        is_due = done == total or time.monotonic() - self._printed_at > _PLAIN_SECONDS
        if is_due and line != self._printed and not console.is_terminal:
            self._printed, self._printed_at = line, time.monotonic()
            print_lines([line])


class _SamplingRate:
    """Tokens a second, counted from the first tokens on."""

    def __init__(self) -> None:
        self._start: float | None = None

    def __call__(self, totals: dict[str, Any], num_left: int) -> list[str]:
        """The rate of each policy, and the time left for `num_left` problems at this session's pace."""
        num_tokens, num_done = totals.get("generated_tokens", 0), totals.get("problems", 0)
        if not num_tokens:
            return ["loading"]
        now = time.monotonic()
        self._start = self._start or now
        seconds = now - self._start
        if seconds <= 1:
            return []
        num_policies = totals.get("policies", 1)
        of_each = f" by each of {num_policies} policies" if num_policies > 1 else ""
        left = _left(seconds / num_done * num_left) if num_done and num_left else []
        return [f"{num_tokens / seconds / num_policies:,.0f} tokens/s{of_each}", *left]


_Bar = tuple[int, int, str, list[str]]  # done, in all, their unit, details


def _rewrite(totals: dict[str, Any], rate: _SamplingRate) -> _Bar:
    problems = totals.get("problems", 0)
    shares = [f"{origin} {totals.get(origin, 0) / problems:.0%}" for origin in ORIGINS if problems]
    return _sampling(totals, rate, shares)


def _evaluate(totals: dict[str, Any], rate: _SamplingRate) -> _Bar:
    samples = totals.get("samples", 0)
    return _sampling(totals, rate, [f"accuracy {totals['correct'] / samples:.1%}"] if samples else [])


def _sampling(totals: dict[str, Any], rate: _SamplingRate, details: list[str]) -> _Bar:
    total = totals["total"]
    done = min(total, totals["done_before"] + totals.get("problems", 0))
    return done, total, "problems", [*details, *rate(totals, total - done)]


def _train(metrics: dict[str, Any], rate: _SamplingRate) -> _Bar:
    step, num_steps = metrics["step"], metrics["num_steps"]
    details = [f"loss {metrics['loss']:.4f}", f"cross-entropy {metrics['cross_entropy']:.4f}"]
    details.append(f"{metrics['tokens_per_second']:,.0f} tokens/s")
    return step, num_steps, "steps", details + _left((num_steps - step) * metrics["seconds"])


def _score(totals: dict[str, Any], rate: _SamplingRate) -> _Bar:
    total, parts, seconds = totals["total"], totals["parts"], totals["seconds"]
    done = totals["done_before"] + parts
    details = [f"{totals['tokens'] / seconds:,.0f} tokens/s"] if seconds else ["loading"]
    return done, total, "parts", details + (_left(seconds / parts * (total - done)) if parts else [])


def _verify(totals: dict[str, Any], rate: _SamplingRate) -> _Bar:
    rows, total, seconds = totals["rows"], totals["total"], totals["seconds"]
    if not rows:
        return rows, total, "rows", []
    details = [f"correct {totals['correct'] / rows:.1%}", f"{rows / seconds:,.0f} verdicts/s"]
    return rows, total, "rows", details + _left(seconds / rows * (total - rows))


def _left(seconds: float) -> list[str]:
    return [f"{duration(seconds)} left"] if seconds > 0 else []


_DESCRIBE = {"rewrite": _rewrite, "score": _score, "evaluate": _evaluate, "train": _train, "verify": _verify}
