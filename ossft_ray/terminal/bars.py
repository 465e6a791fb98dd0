"""What a person sees while a stage works, and when it is done: bars with counts and rates, tables, a summary."""

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from ossft_ray.common.durations import duration

_PLAIN_SECONDS = 15.0  # between lines where there is no terminal to draw a bar on

console = Console(highlight=False)


class StageBars:
    """A bar for each stage in turn; `begin(stage)` gives the `on_progress` that moves it."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:>5.0f}/{task.total:.0f} {task.fields[unit]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[details]}"),
        )
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._bars: dict[str, TaskID] = {}
        self._rates: dict[str, _Rate] = {}
        self._printed, self._printed_at = "", 0.0

    def __enter__(self) -> "StageBars":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, stage: str) -> Any:
        """The `on_progress` of one stage."""
        if not console.is_terminal:
            console.print(f"{stage} ...")

        def on_progress(totals: dict[str, Any]) -> None:
            name = totals.get("model", stage)
            if note := totals.get("note"):
                console.print(f"  {note}", soft_wrap=True)
                return
            if totals.get("already_complete"):
                what = stage if name == stage else f"{stage} ({name})"
                console.print(f"{what} is already complete; nothing was done")
                return
            rate = self._rates.setdefault(name, _Rate())
            done, total, unit, details = _DESCRIBE[stage](totals, rate)
            if name not in self._bars:
                label = stage if name == stage else f"  {name}"
                self._bars[name] = self._progress.add_task(label, total=total, unit=unit, details=details)
            self._progress.update(self._bars[name], completed=done, total=total, details=details)
            if not console.is_terminal:
                self._print_plainly(f"  {name}: {done}/{total} {unit}  {details}", finished=done == total)

        return on_progress

    def _print_plainly(self, line: str, finished: bool) -> None:
        is_due = finished or time.monotonic() - self._printed_at > _PLAIN_SECONDS
        if is_due and line != self._printed:
            self._printed, self._printed_at = line, time.monotonic()
            console.print(line, soft_wrap=True)


class _Rate:
    """How fast it goes, counted from when the first tokens came."""

    def __init__(self) -> None:
        self._start: float | None = None

    def __call__(self, totals: dict[str, Any], num_left: int) -> list[str]:
        """Tokens a second of each policy, and the time left for `num_left` problems at this session's pace."""
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
        words = [f"{num_tokens / seconds / num_policies:,.0f} tokens/s{of_each}"]
        if num_done and num_left:
            words.append(f"{duration(seconds / num_done * num_left)} left")
        return words


def _rewriting(totals: dict[str, Any], rate: _Rate) -> tuple[int, int, str, str]:
    problems = totals.get("problems", 0)
    shares = [f"{origin} {totals.get(origin, 0) / problems:.0%}" for origin in ("self", "guided", "expert") if problems]
    done = min(totals["total"], totals["done_before"] + problems)
    return done, totals["total"], "problems", "  ".join([*shares, *rate(totals, totals["total"] - done)])


def _evaluating(totals: dict[str, Any], rate: _Rate) -> tuple[int, int, str, str]:
    samples = totals.get("samples", 0)
    accuracy = [f"accuracy {totals['correct'] / samples:.1%}"] if samples else []
    done = min(totals["total"], totals["done_before"] + totals.get("problems", 0))
    return done, totals["total"], "problems", "  ".join([*accuracy, *rate(totals, totals["total"] - done)])


def _training(metrics: dict[str, Any], rate: _Rate) -> tuple[int, int, str, str]:
    details = (
        f"loss {metrics['loss']:.4f}  cross-entropy {metrics['cross_entropy']:.4f}  "
        f"{metrics['tokens_per_second']:,.0f} tokens/s"
    )
    if left := metrics["num_steps"] - metrics["step"]:
        details += f"  {duration(left * metrics['seconds'])} left"
    return metrics["step"], metrics["num_steps"], "steps", details


def _scoring(totals: dict[str, Any], rate: _Rate) -> tuple[int, int, str, str]:
    total, parts, seconds = totals["total"], totals["parts"], totals["seconds"]
    done = totals["done_before"] + parts
    details = [f"{totals['tokens'] / seconds:,.0f} tokens/s"] if seconds else ["loading"]
    if parts and done < total:
        details.append(f"{duration(seconds / parts * (total - done))} left")
    return done, total, "parts", "  ".join(details)


def _verifying(totals: dict[str, Any], rate: _Rate) -> tuple[int, int, str, str]:
    rows, total, seconds = totals["rows"], totals["total"], totals["seconds"]
    details = [f"correct {totals['correct'] / rows:.1%}", f"{rows / seconds:,.0f} verdicts/s"] if rows else []
    if 0 < rows < total:
        details.append(f"{duration(seconds / rows * (total - rows))} left")
    return rows, total, "rows", "  ".join(details)


_DESCRIBE = {
    "rewrite": _rewriting,
    "score": _scoring,
    "evaluate": _evaluating,
    "train": _training,
    "verify": _verifying,
}
