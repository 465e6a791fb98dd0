"""The HTML page about runs: what became of the problems, the policy gap, training, benchmarks, examples, settings.

The page needs no network and no script, though a script adds search. Everything that a model, a file or a user wrote is
escaped, and the page's content security policy lets the browser run no script but ours.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from ossft_ray import __version__
from ossft_ray.common.durations import duration
from ossft_ray.common.errors import InputError, brief
from ossft_ray.common.storage import Folder
from ossft_ray.common.types import ORIGINS
from ossft_ray.common.uris import join
from ossft_ray.config import Experiment
from ossft_ray.report import figures, tables
from ossft_ray.report.examples import MAX_BYTES, NUM_EXAMPLES, choose_examples
from ossft_ray.run_folder.names import REPORT
from ossft_ray.run_folder.reader import RunFolder, open_rounds, storage_errors


def report(experiment: Experiment, output: str | None = None) -> str:
    """Write a page about an experiment's run; see `report_runs`."""
    return report_runs([experiment.run.output], output)


def report_runs(runs: Sequence[str], output: str | None = None) -> str:
    """Write one page about these runs side by side, and return its path. Stages that have not begun are left out.

    Args:
        runs: their folders, local paths or object-store URIs; rounds within them are found.
        output: the page's file; None for `report.html` in the first run's folder.

    Raises:
        InputError: a run has nothing to report on, a file cannot be read, or `output` cannot be written to.
    """
    found: list[RunFolder] = []
    for uri in dict.fromkeys(runs):
        with storage_errors(uri):
            rounds = [each for each in open_rounds(uri) if not each.is_empty]
        if not rounds:
            raise InputError(f"{uri}: no stage has written anything to report on yet; run `ossft rewrite` first")
        found += rounds
    with storage_errors(", ".join(runs)):
        html = render(found)
    page = output or join(runs[0], REPORT)
    folder, name = Folder.of_file(page)
    try:
        folder.write_bytes(name, html.encode(errors="replace"))
    except OSError as error:
        raise InputError(f"{page}: cannot be written to: {brief(error)}; choose another --output") from error
    return page


def render(runs: list[RunFolder]) -> str:
    """The page as HTML."""
    style, script = (resources.files("ossft_ray.report").joinpath(f"page.{kind}").read_text() for kind in ("css", "js"))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ossft_ray.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": _or_dash(lambda value: f"{value:,.0f}"),
        "percent": _or_dash(lambda value, sign="": f"{100 * value:{sign}.1f}"),
        "decimal": _or_dash(lambda value, digits=3: f"{value:,.{digits}f}"),
        "duration": _or_dash(duration),
        "readable": partial(json.dumps, indent=2, ensure_ascii=False),
    }
    by_model = tables.results_by_model(runs)
    results = tables.benchmark_rows(by_model)
    return environment.get_template("page.html").render(
        title=runs[0].name if len(runs) == 1 else f"{len(runs)} runs side by side",
        version=__version__,
        style=Markup(style),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        views=[_view(run, f"r{number}", len(runs)) for number, run in enumerate(runs)],
        models=list(by_model),
        results=results,
        result_figures=_result_figures(results, len(by_model)),
        differing=tables.differing_settings(runs) if len(runs) > 1 else [],
        origins=ORIGINS,
    )


def _view(run: RunFolder, anchor: str, num_runs: int) -> dict[str, Any]:
    """What the page shows of one run; `anchor` keeps its ids apart from those of other runs."""
    groups = tables.token_groups(run)
    distributions = (figures.distribution(groups, origin, f"{anchor}-gap") for origin in (*ORIGINS, "all"))
    curves = (figures.curve(run.metrics, key, f"{anchor}-curve") for key in figures.CURVES)
    return {
        "run": run,
        "anchor": anchor,
        "funnel": tables.funnel(run),
        "exhaustive": run.experiment.get("rewrite", {}).get("exhaustive", False),
        "reasons": {stage: reasons for stage, reasons in run.rewrite_counts.get("reasons", {}).items() if reasons},
        "rejected": tables.rejected_rows(run),
        "gap": tables.gap_rows(groups),
        "distributions": [*filter(None, distributions)],
        "curves": [*filter(None, curves)],
        "difference_figures": [
            figures.differences(by_benchmark, f"{anchor}-difference-{number}", f"{model} − base")
            for number, (model, by_benchmark) in enumerate(run.differences.items())
        ],
        "costs": tables.costs(run),
        "examples": choose_examples(run, NUM_EXAMPLES // num_runs, MAX_BYTES // num_runs),
    }


def _result_figures(rows: list[dict[str, Any]], num_series: int) -> list[Markup]:
    """avg@k, and pass@k and maj@k if more than one sample a problem was drawn."""
    keys = ("avg", "pass", "maj") if all(row["samples"] > 1 for row in rows) else ("avg",)
    return [figures.bars(rows, key, num_series, f"{key}@k") for key in keys] if rows else []


def _or_dash(convert: Callable[..., str]) -> Callable[..., str]:
    """A filter of the template that shows a missing value as a dash."""
    return lambda value, *arguments: "–" if value is None else convert(value, *arguments)
