"""Runs' folders as one page: what became of the problems, the policy gap, training, benchmarks, examples, settings.

The page needs no network and no script, though a script adds search. Everything a model, a file or a user wrote is
escaped, and the page's own policy lets the browser run no script but ours.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import partial
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from ossft_ray import __version__
from ossft_ray.common.errors import InputError
from ossft_ray.common.storage import Folder
from ossft_ray.common.types import ORIGINS
from ossft_ray.common.uris import join
from ossft_ray.config import Experiment
from ossft_ray.report import figures, tables
from ossft_ray.report.examples import MAX_BYTES, NUM_EXAMPLES, choose
from ossft_ray.report.logprobs import Groups, token_groups
from ossft_ray.run_folder.names import REPORT
from ossft_ray.run_folder.rounds import RunFiles, read_run


def report(experiment: Experiment, output: str | None = None) -> str:
    """Write `report.html` into `[run] output`, or the file `output`, and return its path.

    Stages that are not there yet are left out.

    Raises:
        InputError: the run's folder has nothing to report on, or holds a file that cannot be read.
    """
    if not Folder.at(experiment.run.output).exists():
        raise InputError(_nothing(experiment.run.output))
    return report_runs([experiment.run.output], output)


def report_runs(runs: Sequence[str], output: str | None = None) -> str:
    """Write one page about these runs side by side, and return its path.

    Args:
        runs: their folders, local paths or object-store URIs; rounds within them are found.
        output: the page's file; None for `report.html` in the first run's folder.

    Raises:
        InputError: a folder has nothing to report on, a file cannot be read, or `output` cannot be written to.
    """
    found: list[RunFiles] = []
    for uri in dict.fromkeys(runs):
        rounds = [each for each in read_run(uri) if not each.is_empty]
        if not rounds:
            raise InputError(_nothing(uri))
        found += rounds
    html = render(found)
    folder, name = (Folder.at(runs[0]), REPORT) if output is None else Folder.of_file(output)
    try:
        folder.write_bytes(name, html.encode(errors="replace"))
    except OSError as error:
        raise InputError(f"{output or runs[0]}: cannot be written to: {error}; choose another --output") from error
    return join(runs[0], REPORT) if output is None else output


def render(runs: list[RunFiles]) -> str:
    """The page as HTML."""
    style, script = (resources.files("ossft_ray.report").joinpath(f"page.{kind}").read_text() for kind in ("css", "js"))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ossft_ray.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": _count, "percent": _percent, "decimal": _decimal, "duration": _duration}
    environment.filters["readable"] = partial(json.dumps, indent=2, ensure_ascii=False)
    all_series = tables.series(runs)
    scores = tables.benchmark_rows(all_series)
    return environment.get_template("page.html").render(
        title=runs[0].name if len(runs) == 1 else f"{len(runs)} runs side by side",
        version=__version__,
        style=Markup(style),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        runs=[_run(run, f"r{number}", len(runs)) for number, run in enumerate(runs)],
        series=all_series,
        scores=scores,
        score_figures=_score_figures(scores, len(all_series)),
        differing=tables.differing_settings(runs) if len(runs) > 1 else [],
        origins=ORIGINS,
    )


def _run(run: RunFiles, salt: str, num_runs: int) -> dict[str, Any]:
    groups: Groups = token_groups(run)
    return {
        "run": run,
        "anchor": salt,
        "funnel": tables.funnel(run),
        "exhaustive": run.experiment.get("rewrite", {}).get("exhaustive", False),
        "reasons": tables.attempt_reasons(run),
        "rejected": tables.rejected_rows(run),
        "parroting": (run.rewriting or {}).get("parroting"),
        "gap": tables.gap_rows(run, groups),
        "distributions": _there(figures.distribution(groups, origin, f"{salt}-gap") for origin in (*ORIGINS, "all")),
        "curves": _there(figures.curve(run.steps, key, f"{salt}-curve") for key in figures.CURVES),
        "differences": run.differences or {},
        "difference_figures": _there(
            figures.differences(each, f"{salt}-difference-{number}", f"{model} − base")
            for number, (model, each) in enumerate((run.differences or {}).items())
        ),
        "costs": tables.costs(run),
        "examples": choose(run, NUM_EXAMPLES // num_runs, MAX_BYTES // num_runs),
    }


def _score_figures(rows: list[dict[str, Any]], num_series: int) -> list[Markup]:
    """avg@k, and pass@k and maj@k where more than one sample a problem was drawn."""
    if not rows:
        return []
    found = [figures.bars(tables.benchmark_bars(rows), num_series, "scores-avg", "avg@k")]
    if all(row["samples"] > 1 for row in rows):
        for key, label in (("pass", "pass@k"), ("maj", "maj@k")):
            values = [row["pass"][str(row["samples"])] if key == "pass" else row["maj"] for row in rows]
            bars = [
                figures.Bar(row["benchmark"], row["series"], value, 0.0)
                for row, value in zip(rows, values, strict=True)
            ]
            found.append(figures.bars(bars, num_series, f"scores-{key}", label))
    return found


def _there(found: Any) -> list[Markup]:
    return [each for each in found if each is not None]


def _nothing(uri: str) -> str:
    return f"[run] output: {uri} has no finished stage to report on"


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _percent(value: float | None, digits: int = 1, sign: bool = False) -> str:
    return "–" if value is None else f"{100 * value:{'+' if sign else ''}.{digits}f}"


def _decimal(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    minutes, hours = seconds / 60, seconds / 3600
    return f"{hours:.1f} h" if hours >= 1 else f"{minutes:.1f} min" if minutes >= 1 else f"{seconds:.1f} s"
