"""The report's pictures, each from plain values: distributions, curves, bars with error bars, differences."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from ossft_ray.common.types import ORIGINS
from ossft_ray.report.logprobs import EDGES, SOURCES, Groups
from ossft_ray.report.svg import COLOURS, figure, inline

CONFIDENCE = 1.96  # standard errors on either side make a 95% interval
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


@dataclass(frozen=True)
class Bar:
    """A model's value on one benchmark, in 0..1, with its standard error."""

    benchmark: str
    series: int
    value: float
    stderr: float


def distribution(groups: Groups, origin: str, salt: str) -> Markup | None:
    """Shares of tokens by log p, before rewriting (filled) and after (line); None where nothing was scored."""
    original, kept = (groups.get((origin, source)) for source in SOURCES)
    if original is None and kept is None:
        return None
    colour = COLOURS[origin] if origin in COLOURS else COLOURS["ink"]
    with figure() as (made, axes):
        lowest = 1.0
        for group, style in ((original, "original"), (kept, "kept")):
            if group is None:
                continue
            shares = group.counts / group.sums.tokens
            lowest = min(lowest, shares[shares > 0].min())
            if style == "original":
                axes.stairs(shares, EDGES, fill=True, color=COLOURS["original"], alpha=0.45, baseline=1e-12)
            else:
                axes.stairs(np.maximum(shares, 1e-12), EDGES, color=colour, linewidth=1.8, baseline=None)
            mean = max(group.sums.logprob / group.sums.tokens, EDGES[0])
            mark = {"color": COLOURS["original"] if style == "original" else colour, "linewidth": 1.2}
            axes.axvline(mean, linestyle="--", **mark)
        axes.set_yscale("log")
        axes.set_ylim(lowest / 2, 1.5)
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
        axes.yaxis.set_minor_locator(_none())
        axes.set_xlim(EDGES[0], EDGES[-1])
        axes.set_xticks(range(-20, 1, 5))
        axes.set_xlabel("log p of a response token, nats")
        axes.set_title(f"{origin}: share of tokens")
        return inline(made, f"{salt}-{origin}", f"Distribution of token log-probabilities, {origin}")


def curve(steps: list[dict[str, Any]], key: str, salt: str) -> Markup | None:
    """One of `CURVES` over the steps, of all tokens and by origin; None where no step has it."""
    with figure() as (made, axes):
        lines = [("all", key), *((origin, f"{origin}/{key}") for origin in ORIGINS)]
        drawn = [name for name, each in lines if _draw(axes, steps, each, name)]
        held_out = [(step["step"], step[f"holdout_{key}"]) for step in steps if _number(step.get(f"holdout_{key}"))]
        if not drawn:
            return None
        if held_out:
            axes.plot(*zip(*held_out, strict=True), "o", markersize=3.5, color=COLOURS["ink"], fillstyle="none")
        axes.set_xlabel("step")
        axes.set_title(CURVES[key] + (" (○ kept apart)" if held_out else ""))
        return inline(made, f"{salt}-{key}", f"{CURVES[key]} over training steps")


def bars(values: Sequence[Bar], num_series: int, salt: str, label: str) -> Markup:
    """Horizontal bars by benchmark and series, each with its 95% interval."""
    names = list(dict.fromkeys(bar.benchmark for bar in values))
    thickness = 0.8 / num_series
    height = 0.75 + len(names) * (0.16 + 0.15 * num_series)
    with figure(4.6, max(1.6, height)) as (made, axes):
        for bar in values:
            place = names.index(bar.benchmark) + thickness * (bar.series - (num_series - 1) / 2)
            colour = COLOURS[f"s{bar.series % 6}"]
            axes.barh(place, 100 * bar.value, 0.9 * thickness, color=colour)
            if bar.stderr:
                error = 100 * CONFIDENCE * bar.stderr
                axes.errorbar(100 * bar.value, place, xerr=error, color=COLOURS["ink"], capsize=2, linewidth=1)
        axes.set_yticks(range(len(names)), [_short(name) for name in names])
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        axes.set_xlabel("%")
        axes.set_title(label)
        return inline(made, salt, f"{label} by benchmark and model")


def differences(by_benchmark: dict[str, dict[str, Any]], salt: str, label: str) -> Markup | None:
    """A dot a benchmark with its interval, and the line of no difference; None where no figure is a number."""
    rows = {name: each for name, each in by_benchmark.items() if _number(each.get("difference"))}
    if not rows:
        return None
    with figure(4.6, 1.1 + 0.26 * len(rows)) as (made, axes):
        axes.axvline(0, color=COLOURS["faint"], linewidth=1)
        for place, each in enumerate(rows.values()):
            middle = 100 * each["difference"]
            low, high = (100 * each[key] if _number(each.get(key)) else middle for key in ("low", "high"))
            axes.plot([low, high], [place, place], color=COLOURS["ink"], linewidth=1.4)
            axes.plot(middle, place, "o", color=COLOURS["s1"], markersize=6)
        axes.set_yticks(range(len(rows)), [_short(name) for name in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("difference, percentage points")
        axes.set_title(label)
        return inline(made, salt, f"{label} by benchmark")


def _draw(axes: Any, steps: list[dict[str, Any]], key: str, name: str) -> bool:
    points = [(step["step"], step[key]) for step in steps if _number(step.get(key))]
    if not points:
        return False
    # neighbours are averaged where there are more steps than a picture shows
    stride = math.ceil(len(points) / _MAX_POINTS)
    means = [np.mean(points[start : start + stride], axis=0) for start in range(0, len(points), stride)]
    colour = COLOURS["ink"] if name == "all" else COLOURS[name]
    marker = "o" if len(means) == 1 else ""
    width, above = (1.1, 3) if name == "all" else (1.6, 2)
    line = {"color": colour, "linestyle": _DASHES[name], "linewidth": width, "zorder": above, "marker": marker}
    axes.plot(*zip(*means, strict=True), **line)
    return True


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _short(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:23]}…"


def _none() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()
