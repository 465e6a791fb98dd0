"""Training curves: smoothed lines over faint single steps, with the values for the script that reads them out."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from ossft_ray.common.types import ORIGINS
from ossft_ray.report.svg import COLOURS, figure, inline

CURVES = {
    "loss": "loss: mean of c · (−log p)",
    "cross_entropy": "cross-entropy, nats a token",
    "mean_token_probability": "mean token probability",
    "coefficient_variance": "variance of the coefficient c",
    "effective_sample_size": "effective sample size of w = p",
    "entropy": "entropy, nats a token",
    "grad_norm": "gradient norm, before clipping",
    "learning_rate": "learning rate",
    "tokens_per_second": "response tokens/s",
}
SMOOTHED_SHARE = 1 / 15  # of the steps: the span of the exponential mean
_MIN_SMOOTHED = 20  # fewer steps are drawn as they are
_MAX_POINTS = 300  # of a curve
_DASHES: dict[str, Any] = {
    "self": "-",
    "guided": (0, (5, 1.5)),
    "external": (0, (4, 1, 1, 1)),
    "expert": (0, (1.5, 1.2)),
    "all": "-",
}


@dataclass(frozen=True)
class Curve:
    """A picture, the names of its lines, and as JSON what the script needs to show the values under the pointer."""

    picture: Markup
    lines: list[str]
    data: str
    last: dict[str, float]  # the values of the last step


def curve(steps: list[dict[str, Any]], key: str, salt: str) -> Curve | None:
    """One of `CURVES` over the steps, of all tokens and by origin; None if no step has it."""
    found = {"all": _points(steps, key)} | {origin: _points(steps, f"{origin}/{key}") for origin in ORIGINS}
    lines = {name: _thin_out(points) for name, points in found.items() if points}
    if not lines:
        return None
    holdout = _points(steps, f"holdout_{key}")
    with figure() as (drawing, axes):
        for name, points in lines.items():
            _draw(axes, name, points, is_noisy=key != "learning_rate")
        if holdout:
            axes.plot(*zip(*holdout, strict=True), "o", markersize=3.5, color=COLOURS["ink"], fillstyle="none")
        axes.set(xlabel="step", title=CURVES[key] + (" (○ holdout)" if holdout else ""))
        picture = inline(drawing, f"{salt}-{key}", f"{CURVES[key]} over training steps")
        place, (low, high) = axes.get_position(), axes.get_xlim()
    data = {"left": place.x0, "right": place.x1, "low": low, "high": high}
    rounded = {name: [[step, float(f"{value:.4g}")] for step, value in points] for name, points in lines.items()}
    last = {name: points[-1][1] for name, points in lines.items()}
    return Curve(picture, list(lines), json.dumps(data | {"lines": rounded}), last)


def smooth(values: Sequence[float]) -> np.ndarray:
    """The exponential mean of the values so far, with weights that sum to 1 from the first one on.

    >>> smooth([2.0] * 20 + [4.0]).round(2).tolist()[-2:]
    [2.0, 3.67]
    """
    span = max(1.0, len(values) * SMOOTHED_SHARE)
    keep = 1 - 2 / (span + 1)
    total = weight = 0.0
    means = []
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        means.append(total / weight)
    return np.array(means)


def _draw(axes: Any, name: str, points: list[tuple[float, float]], is_noisy: bool) -> None:
    x, y = zip(*points, strict=True)
    line = {"color": COLOURS["ink"] if name == "all" else COLOURS[name], "zorder": 3 if name == "all" else 2}
    if len(points) < _MIN_SMOOTHED or not is_noisy:
        axes.plot(x, y, linestyle=_DASHES[name], marker="o" if len(points) == 1 else "", linewidth=1.5, **line)
        return
    axes.plot(x, y, linewidth=0.8, alpha=0.25, **line)
    axes.plot(x, smooth(y), linestyle=_DASHES[name], linewidth=1.7, **line)


def _points(steps: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    """Steps with their values; those that lack one, or whose value is not finite, are left out."""
    values = ((step["step"], step.get(key)) for step in steps)
    return [(step, value) for step, value in values if value is not None and math.isfinite(value)]


def _thin_out(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `_MAX_POINTS` points: means of neighbours if there are more."""
    stride = math.ceil(len(points) / _MAX_POINTS)
    means = [np.mean(points[start : start + stride], axis=0) for start in range(0, len(points), stride or 1)]
    return [(float(step), float(value)) for step, value in means]
