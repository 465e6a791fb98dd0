"""The report's pictures, each from plain values: distributions, curves, bars with intervals, differences."""

import math
from typing import Any

import numpy as np
from markupsafe import Markup

from ossft_ray.common.types import ORIGINS
from ossft_ray.method import gap
from ossft_ray.report.svg import COLOURS, figure, inline
from ossft_ray.report.tables import SOURCES, TokenGroups

_EDGES = np.array(gap.EDGES[::2])  # nats; two bins of the sums are drawn as one
_MAX_POINTS = 300  # of a curve
_DASHES = {"self": "-", "guided": (0, (5, 1.5)), "expert": (0, (1.5, 1.2)), "all": "-"}
CURVES = {
    "loss": "loss: mean of c · (−log p)",
    "cross_entropy": "cross-entropy, nats a token",
    "coefficient_variance": "variance of the coefficient c",
    "effective_sample_size": "effective sample size of w = p",
    "entropy": "entropy, nats a token",
    "grad_norm": "gradient norm, before clipping",
    "learning_rate": "learning rate",
}


def distribution(groups: TokenGroups, origin: str, salt: str) -> Markup | None:
    """Shares of tokens by log p, before rewriting (filled) and after (line); None if nothing was scored."""
    found = {source: groups[origin, source] for source in SOURCES if (origin, source) in groups}
    if not found:
        return None
    with figure() as (drawing, axes):
        lowest = 1.0
        for source, sums in found.items():
            shares = sums.histogram.reshape(-1, 2).sum(1) / sums.tokens
            lowest = min(lowest, shares[shares > 0].min())
            colour = COLOURS["original"]
            if source == "kept":
                colour = COLOURS.get(origin, COLOURS["ink"])
                axes.stairs(np.maximum(shares, 1e-12), _EDGES, color=colour, linewidth=1.8, baseline=None)
            else:
                axes.stairs(shares, _EDGES, fill=True, color=colour, alpha=0.45, baseline=1e-12)
            axes.axvline(max(sums.logprob / sums.tokens, _EDGES[0]), color=colour, linewidth=1.2, linestyle="--")
        axes.set(yscale="log", ylim=(lowest / 2, 1.5), xlim=(_EDGES[0], _EDGES[-1]), xticks=range(-20, 1, 5))
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
        axes.minorticks_off()
        axes.set(xlabel="log p of a response token, nats", title=f"{origin}: share of tokens")
        return inline(drawing, f"{salt}-{origin}", f"Distribution of token log-probabilities, {origin}")


def curve(steps: list[dict[str, Any]], key: str, salt: str) -> Markup | None:
    """One of `CURVES` over the steps, of all tokens and by origin; None if no step has it."""
    lines = {"all": _points(steps, key)}
    lines |= {origin: _points(steps, f"{origin}/{key}") for origin in ORIGINS}
    if not any(lines.values()):
        return None
    holdout = _points(steps, f"holdout_{key}")
    with figure() as (drawing, axes):
        for name, points in lines.items():
            if not points:
                continue
            stride = math.ceil(len(points) / _MAX_POINTS)  # neighbours are averaged if there are too many
            means = [np.mean(points[start : start + stride], axis=0) for start in range(0, len(points), stride)]
            line = {"color": COLOURS["ink"], "linewidth": 1.1, "zorder": 3}
            if name != "all":
                line = {"color": COLOURS[name], "linewidth": 1.6, "zorder": 2}
            axes.plot(*zip(*means, strict=True), linestyle=_DASHES[name], marker="o" if len(means) == 1 else "", **line)
        if holdout:
            axes.plot(*zip(*holdout, strict=True), "o", markersize=3.5, color=COLOURS["ink"], fillstyle="none")
        axes.set(xlabel="step", title=CURVES[key] + (" (○ holdout)" if holdout else ""))
        return inline(drawing, f"{salt}-{key}", f"{CURVES[key]} over training steps")


def bars(rows: list[dict[str, Any]], key: str, num_series: int, label: str) -> Markup:
    """Horizontal bars of `benchmark_rows` by benchmark and series; `avg` with its 95% interval."""
    names = list(dict.fromkeys(row["benchmark"] for row in rows))
    thickness = 0.8 / num_series
    height = 0.75 + len(names) * (0.16 + 0.15 * num_series)
    with figure(4.6, max(1.6, height)) as (drawing, axes):
        for row in rows:
            place = names.index(row["benchmark"]) + thickness * (row["series"] - (num_series - 1) / 2)
            axes.barh(place, 100 * row[key], 0.9 * thickness, color=COLOURS[f"s{row['series'] % 6}"])
            if key == "avg" and row["stderr"]:
                low, high = row["interval"]
                error = [[100 * (row["avg"] - low)], [100 * (high - row["avg"])]]
                axes.errorbar(100 * row["avg"], place, xerr=error, color=COLOURS["ink"], capsize=2, linewidth=1)
        _label_rows(axes, names)
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        axes.set(xlabel="%", title=label)
        return inline(drawing, f"benchmarks-{key}", f"{label} by benchmark and model")


def differences(by_benchmark: dict[str, dict[str, Any]], salt: str, label: str) -> Markup:
    """A dot for each benchmark with its interval, and the line of no difference."""
    with figure(4.6, 1.1 + 0.26 * len(by_benchmark)) as (drawing, axes):
        axes.axvline(0, color=COLOURS["faint"], linewidth=1)
        for place, found in enumerate(by_benchmark.values()):
            axes.plot([100 * found["low"], 100 * found["high"]], [place, place], color=COLOURS["ink"], linewidth=1.4)
            axes.plot(100 * found["difference"], place, "o", color=COLOURS["s1"], markersize=6)
        _label_rows(axes, list(by_benchmark))
        axes.set(ylim=(len(by_benchmark) - 0.5, -0.5), xlabel="difference, percentage points", title=label)
        return inline(drawing, salt, f"{label} by benchmark")


def _points(steps: list[dict[str, Any]], key: str) -> list[tuple[int, float]]:
    """Steps with their values; those that lack one, or whose value is not finite, are left out."""
    values = ((step["step"], step.get(key)) for step in steps)
    return [(step, value) for step, value in values if value is not None and math.isfinite(value)]


def _label_rows(axes: Any, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), [name if len(name) <= 24 else f"{name[:23]}…" for name in names])
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
