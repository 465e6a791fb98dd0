"""A matplotlib figure as inline SVG whose colours are the page's CSS variables, so that light and dark both work."""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from markupsafe import Markup, escape

# matplotlib wants real colours: each stands for the CSS variable of its name, and occurs nowhere else.
NAMES = ("ink", "faint", "grid", "self", "guided", "external", "expert", "original", "s0", "s1", "s2", "s3", "s4", "s5")
COLOURS = {name: f"#0102{number:02x}" for number, name in enumerate(NAMES, start=16)}
_STYLE = {
    "svg.fonttype": "none",  # text stays text: found by search, read aloud, in the page's font
    "text.parse_math": False,  # a run may be named $x$
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.edgecolor": COLOURS["faint"],
    "axes.labelcolor": COLOURS["ink"],
    "text.color": COLOURS["ink"],
    "xtick.color": COLOURS["faint"],
    "ytick.color": COLOURS["faint"],
    "xtick.labelcolor": COLOURS["ink"],
    "ytick.labelcolor": COLOURS["ink"],
    "grid.color": COLOURS["grid"],
    "grid.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.limits": (-3, 5),
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


@contextmanager
def figure(width: float = 4.0, height: float = 2.7) -> Iterator[tuple[Any, Any]]:
    """A figure of this size in inches with one pair of axes, in the page's style."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        drawing = Figure(figsize=(width, height), layout="constrained")
        yield drawing, drawing.subplots()


def inline(drawing: Any, salt: str, label: str) -> Markup:
    """The figure as an `<svg>` element. `salt` keeps its ids apart from others'; `label` is for screen readers."""
    import matplotlib

    target = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": salt}), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about letters that only the reader's font has
        drawing.savefig(target, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = target.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    view_box = re.search(r'viewBox="[^"]*"', svg)
    opening = f'<svg {view_box[0] if view_box else ""} role="img" aria-label="{escape(label)}">'
    svg = re.sub(r"^<svg[^>]*>", lambda _: opening, svg, count=1)
    svg = re.sub(r' id="(?:figure|axes|patch|line2d|text|matplotlib\.axis|xtick|ytick|legend|[A-Z])[^"]*_\d+"', "", svg)
    for name, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    return Markup(svg)
