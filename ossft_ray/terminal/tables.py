"""What a finished stage comes to, as tables and lines for the terminal."""

from collections import Counter
from statistics import fmean
from typing import Any

from rich.table import Table

from ossft_ray.common.durations import duration

Scores = dict[str, dict[str, dict[str, Any]]]  # by model and benchmark


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
