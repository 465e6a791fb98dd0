"""The report's pictures, each from plain values: distributions, histograms, bars with intervals, differences."""

from typing import Any

import numpy as np
from markupsafe import Markup

from ossft_ray.method import gap
from ossft_ray.report.svg import COLOURS, figure, inline
from ossft_ray.report.tables import SOURCES, TokenGroups

_EDGES = np.array(gap.EDGES[::2])  # nats; two bins of the sums are drawn as one
_NUM_LENGTHS = 32  # bins of lengths


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


def pass_rates(shares: dict[str, np.ndarray], salt: str) -> Markup | None:
    """Numbers of problems by their share of correct attempts, 0..1, for each stage; None without attempts."""
    if not shares:
        return None
    edges = [0.0, 1e-9, 0.25, 0.5, 0.75, 1 - 1e-9, 1.0]
    labels = ["none", "to ¼", "to ½", "to ¾", "to 1", "all"]
    width = 0.8 / len(shares)
    with figure(4.8, 2.5) as (drawing, axes):
        for number, (stage, values) in enumerate(shares.items()):
            counts = np.histogram(values, [*edges[:-1], 1.1])[0]
            left = np.arange(len(labels)) + width * (number - (len(shares) - 1) / 2)
            axes.bar(left, counts, 0.95 * width, color=COLOURS.get(stage, COLOURS["ink"]))
        axes.set_xticks(range(len(labels)), labels)
        axes.grid(visible=False, axis="x")
        axes.set(xlabel="share of a problem's attempts that are correct", title="problems by correct attempts")
        return inline(drawing, f"{salt}-pass-rates", "Problems by their share of correct attempts")


def lengths(by_origin: dict[str, np.ndarray], salt: str) -> Markup | None:
    """Shares of responses by length in tokens, of each origin (lines) and of the experts' originals (filled)."""
    if not by_origin:
        return None
    longest = max(float(np.quantile(values, 0.995)) for values in by_origin.values())
    edges = np.linspace(0, max(longest, _NUM_LENGTHS), _NUM_LENGTHS + 1).round()
    with figure(4.8, 2.5) as (drawing, axes):
        for name, values in by_origin.items():
            shares = np.histogram(values.clip(0, edges[-1]), edges)[0] / len(values)
            style = {"fill": True, "alpha": 0.45} if name == "original" else {"linewidth": 1.6, "baseline": None}
            axes.stairs(shares, edges, color=COLOURS.get(name, COLOURS["ink"]), **style)
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
        axes.set(xlabel="tokens of a response", title="responses by length", xlim=(0, edges[-1]), ylim=(0, None))
        return inline(drawing, f"{salt}-lengths", "Responses by their length in tokens")


def bars(rows: list[dict[str, Any]], key: str, num_series: int, label: str) -> Markup:
    """Horizontal bars of `benchmark_rows` by benchmark and series; `avg` with its 95% interval."""
    names = list(dict.fromkeys(row["benchmark"] for row in rows))
    thickness = 0.8 / num_series
    height = 0.75 + len(names) * (0.16 + 0.15 * num_series)
    with figure(4.6, max(1.6, height)) as (drawing, axes):
        for row in rows:
            place = names.index(row["benchmark"]) + thickness * (row["series"] - (num_series - 1) / 2)
            axes.barh(place, 100 * row[key], 0.9 * thickness, color=COLOURS[f"s{row['series'] % 6}"])
            if key == "avg":
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
    with figure(5.4, 1.1 + 0.26 * len(by_benchmark)) as (drawing, axes):
        axes.axvline(0, color=COLOURS["faint"], linewidth=1)
        for place, found in enumerate(by_benchmark.values()):
            axes.plot([100 * found["low"], 100 * found["high"]], [place, place], color=COLOURS["ink"], linewidth=1.4)
            axes.plot(100 * found["difference"], place, "o", color=COLOURS["s1"], markersize=6)
        _label_rows(axes, list(by_benchmark))
        axes.set(ylim=(len(by_benchmark) - 0.5, -0.5), xlabel="difference, percentage points", title=label)
        return inline(drawing, salt, f"{label} by benchmark")


def _label_rows(axes: Any, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), [name if len(name) <= 24 else f"{name[:23]}…" for name in names])
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
