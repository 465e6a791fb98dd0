"""What a person sees while a stage works, and when it is done: bars with counts and rates, tables, a summary."""

import time
from collections import Counter
from statistics import fmean
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

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


def duration(seconds: float) -> str:
    """About how long, in the two largest units.

    >>> duration(42), duration(200), duration(7500)
    ('42 s', '3 min 20 s', '2 h 5 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_left} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


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


def origins_table(manifest: dict[str, Any]) -> Table:
    """How many problems kept whose solution."""
    table = Table(box=None, pad_edge=False)
    table.add_column("kept solution")
    table.add_column("problems", justify="right")
    table.add_column("share", justify="right")
    words = {"self": "the policy's own", "guided": "re-solved with guidance", "expert": "the expert's"}
    for origin, count in manifest["origins"].items():
        table.add_row(f"{words[origin]} ({origin})", str(count), f"{count / manifest['problems']:.0%}")
    for name in ("dropped", "rejected"):
        if manifest[name]:
            table.add_row(name, str(manifest[name]), "")
    return table


def rewriting_costs(manifest: dict[str, Any]) -> str:
    """What a rewrite took, and what it turned away, in a few lines."""
    lines = [f"{manifest['attempts']:,} attempts, {manifest['generated_tokens']:,} tokens generated"]
    others = [
        f"{manifest[f'{kind}_attempts']:,} {what}"
        for kind, what in (("redone", "made again after an interruption"), ("speculative", "begun early in vain"))
        if manifest.get(f"{kind}_attempts")
    ]
    if others:
        lines.append(f"beside them {' and '.join(others)}")
    for stage, reasons in manifest.get("reasons", {}).items():
        if reasons:
            lines.append(f"{stage}: {', '.join(f'{count:,} {reason}' for reason, count in reasons.items())}")
    lines += [*parroting_lines(manifest), *_golds(manifest)]
    if seconds := manifest.get("phases"):
        lines.append(f"time: {', '.join(f'{phase} {duration(value)}' for phase, value in seconds.items())}")
    return "\n".join(lines)


def parroting_lines(manifest: dict[str, Any]) -> list[str]:
    """How often guided responses repeated a wrong answer of their guide; nothing where that was not probed."""
    found = manifest.get("parroting")
    if not found or not found["samples"]:
        return []
    return [
        f"parroting: {found['followed']} of {found['samples']} guided responses repeated a wrong answer of their guide "
        f"({found['followed_share']:.0%} ± {found['stderr']:.0%}); "
        f"{found['correct']} were right, {found['other']} neither"
    ]


def _golds(manifest: dict[str, Any]) -> list[str]:
    """What there is to say about gold answers."""
    lines = []
    if bad := manifest.get("bad_golds"):
        findings = Counter(gold["finding"] for gold in bad)
        lines.append(f"doubtful gold answers: {', '.join(f'{n:,} {what}' for what, n in findings.most_common())}")
    if suspects := manifest.get("suspects"):
        lines.append(f"suspects: {len(suspects):,} problems whose attempts agree on another answer than the gold's")
    return [*lines, "    they are listed in rewrite/manifest.json"] if lines else []


def verify_table(reasons: dict[str, int]) -> Table:
    """How many rows got which verdict."""
    table = Table(box=None, pad_edge=False)
    table.add_column("verdict")
    table.add_column("rows", justify="right")
    table.add_column("share", justify="right")
    for reason, count in reasons.items():
        table.add_row(reason, f"{count:,}", f"{count / sum(reasons.values()):.1%}")
    return table


def gap_table(manifest: dict[str, Any]) -> Table:
    """How likely the kept responses and the experts' solutions are under the policy, from `score/manifest.json`."""
    table = Table(box=None, pad_edge=False)
    table.add_column("responses")
    for heading in ("number", "tokens", "mean log p", "perplexity", "effective sample size"):
        table.add_column(heading, justify="right")
    words = {"kept": "all kept", "expert_originals": "experts' originals"}
    for group in ("self", "guided", "expert", *words):
        figures = manifest[group]
        if figures["tokens"]:
            table.add_row(
                words.get(group, f"kept, {group}"),
                f"{figures['responses']:,}",
                f"{figures['tokens']:,}",
                f"{figures['mean_logprob']:.3f}",
                f"{figures['perplexity']:,.2f}",
                f"{figures['effective_sample_size']:.3f}",
            )
    if any(manifest["too_long"].values()):
        too_long = manifest["too_long"]
        table.add_row("left out as too long", f"{too_long['kept']:,} kept, {too_long['expert_originals']:,} experts'")
    return table


Scores = dict[str, dict[str, dict[str, Any]]]  # by model and benchmark


def scores_table(scores: Scores) -> Table:
    """avg@k of each model on each benchmark, with standard errors."""
    table = Table(box=None, pad_edge=False)
    first = next(iter(next(iter(scores.values())).values()))
    table.add_column(f"avg@{first['samples']} ± standard error, %")
    for model in scores:
        table.add_column(model, justify="right")
    for benchmark in next(iter(scores.values())):
        cells = [by_benchmark[benchmark] for by_benchmark in scores.values()]
        table.add_row(benchmark, *(f"{100 * cell['avg']:.1f} ± {100 * cell['stderr']:.1f}" for cell in cells))
    return table


def differences_table(scores: Scores, model: str, differences: dict[str, dict[str, Any]]) -> Table:
    """How `model` differs from the base model: with its 95% interval, and what the difference consists of.

    `scores` holds both models' entries of `scores.json`, `differences` is the model's entry of `differences.json`.
    """
    least = ", ".join(f"{name} {100 * found['smallest_detectable']:.1f}" for name, found in differences.items())
    table = Table(
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),  # it fits into 80 columns
        caption=f"The gain is that in stopping in time, giving the answer in form, and solving. "
        f"Smallest gain that would show in four of five cases: {least}.",
        caption_justify="left",
        caption_style="",
    )
    first = next(iter(scores[model].values()))
    table.add_column(f"avg@{first['samples']}, %")
    for heading in ("base", model, "gain", "95% interval", "stopping", "form", "solving"):
        table.add_column(heading, justify="right", no_wrap=True)
    for benchmark, found in differences.items():
        is_average = benchmark not in scores[model]
        means = [
            fmean(entry["avg"] for entry in scores[name].values()) if is_average else scores[name][benchmark]["avg"]
            for name in ("base", model)
        ]
        if is_average:
            table.add_section()
        table.add_row(
            benchmark,
            *(f"{100 * mean:.1f}" for mean in means),
            f"{100 * found['difference']:+.1f}",
            f"{100 * found['low']:+.1f} to {100 * found['high']:+.1f}",
            *(f"{100 * part:+.1f}" for part in found["gain"].values()),
            style="bold" if is_average else "",
        )
    return table
