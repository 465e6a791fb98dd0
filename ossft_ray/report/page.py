"""The HTML page about runs: what became of the problems, the policy gap, training, benchmarks, examples, settings.

The page needs no network and no script, though a script adds search and reads curves out. Everything that a model, a
file or a user wrote is escaped, and the page's content security policy lets the browser run no script but ours.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from importlib import resources
from itertools import pairwise
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
from ossft_ray.report import curves, figures, tables
from ossft_ray.report.answers import CHANGES, NUM_ANSWERS, choose_answers
from ossft_ray.report.answers import MAX_BYTES as MAX_ANSWER_BYTES
from ossft_ray.report.examples import MAX_BYTES, NUM_EXAMPLES, choose_examples
from ossft_ray.report.headline import headline
from ossft_ray.report.health import health_rows
from ossft_ray.run_folder.names import REPORT
from ossft_ray.run_folder.reader import RunFolder, open_rounds, storage_errors
from ossft_ray.run_folder.stage_states import REPORT_STAGE, stage_states

MINUS = "\N{MINUS SIGN}"
_UNFINISHED = ("running", "stopped", "failed")  # states of a stage


def report(experiment: Experiment, output: str | None = None) -> str:
    """Write a page about an experiment's run; see `report_runs`."""
    return report_runs([experiment.run.output], output)


def report_runs(runs: Sequence[str], output: str | None = None) -> str:
    """Write one page about these runs side by side, and return its path. Stages that have not begun are left out.

    Args:
        runs: their folders, local paths or object-store URIs; rounds within them are included.
        output: the page's file; None for `report.html` in the first run's folder.

    Raises:
        InputError: a run has nothing to report on, a file cannot be read, or `output` cannot be written to.
    """
    found: list[RunFolder] = []
    previous: dict[str, RunFolder] = {}
    for uri in dict.fromkeys(runs):
        with storage_errors(uri):
            rounds = [each for each in open_rounds(uri) if not each.is_empty]
        if not rounds:
            raise InputError(f"{uri}: no stage has written anything to report on yet; run `ossft rewrite` first")
        found += rounds
        previous |= {later.name: earlier for earlier, later in pairwise(rounds)}
    with storage_errors(", ".join(runs)):
        html = render(found, previous)
    page = output or join(runs[0], REPORT)
    folder, name = Folder.of_file(page)
    try:
        folder.write_bytes(name, html.encode(errors="replace"))
    except OSError as error:
        raise InputError(f"{page}: cannot be written to: {brief(error)}; choose another --output") from error
    return page


def render(runs: list[RunFolder], previous: dict[str, RunFolder]) -> str:
    """The page as HTML. `previous` maps the name of each later round to the round before it."""
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
        "percent": _or_dash(percent),
        "decimal": _or_dash(lambda value, digits=3: f"{value:z,.{digits}f}".replace("-", MINUS)),
        "signed": _or_dash(lambda value: f"{value:+z,.2f}".replace("-", MINUS)),
        "significant": _or_dash(significant),
        "spans": spans,
        "duration": _or_dash(duration),
        "readable": partial(json.dumps, indent=2, ensure_ascii=False),
    }
    by_model = tables.results_by_model(runs)
    results = tables.benchmark_rows(by_model)
    views = [_view(run, previous.get(run.name), f"r{number}", len(runs)) for number, run in enumerate(runs)]
    return environment.get_template("page.html").render(
        title=runs[0].name if len(runs) == 1 else f"{len(runs)} runs side by side",
        version=__version__,
        style=Markup(style),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        views=views,
        gap_groups={row["origin"] for view in views for row in view["gap"]},
        curve_lines=list(dict.fromkeys(line for view in views for curve in view["curves"] for line in curve.lines)),
        example_origins={row["origin"] for view in views for row in view["examples"].rows},
        rounds=[tables.round_row(view["run"], view["gap"], view["problem_gaps"]) for view in views] if previous else [],
        models=list(by_model),
        results=results,
        result_figures=_result_figures(results, len(by_model)),
        differing=tables.differing_settings(runs) if len(runs) > 1 else [],
        origins=ORIGINS,
        changes=list(CHANGES.values()),
    )


def percent(share: float, sign: str = "") -> str:
    """A share as percent; zero has no sign, however it was rounded.

    >>> percent(0.078, "+"), percent(-0.0001, "+"), percent(1.0)
    ('+7.8', '0.0', '100.0')
    """
    text = f"{100 * share:{sign}.1f}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", MINUS)


def significant(value: float) -> str:
    """A positive number with no more digits than a reader needs.

    >>> significant(14055.31), significant(54.876), significant(1.0399)
    ('14,055', '54.9', '1.04')
    """
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def spans(num_figures: int) -> list[int]:
    """The width of each figure in twelfths of the page, so that every row is full and rows differ by one at most.

    >>> spans(4), spans(7), spans(1)
    ([3, 3, 3, 3], [4, 4, 4, 6, 6, 6, 6], [12])
    """
    num_rows = 1 if num_figures == 4 else -(-num_figures // 3)
    sizes = [(num_figures + row) // num_rows for row in reversed(range(num_rows))]
    return [12 // size for size in sizes for _ in range(size)]


def _view(run: RunFolder, previous: RunFolder | None, anchor: str, num_runs: int) -> dict[str, Any]:
    """What the page shows of one run; `anchor` keeps its ids apart from those of other runs."""
    groups, problem_gaps = tables.token_groups(run), tables.problem_gaps(run)
    distributions = (figures.distribution(groups, origin, f"{anchor}-gap") for origin in (*ORIGINS, "all"))
    shown_curves = (curves.curve(run.metrics, key, f"{anchor}-curve") for key in curves.CURVES)
    lengths = tables.response_lengths(run)
    histograms = (figures.pass_rates(tables.pass_shares(run), anchor), figures.lengths(lengths, anchor))
    states = stage_states(run, previous=previous)
    states.pop(REPORT_STAGE)  # this page
    return {
        "run": run,
        "anchor": anchor,
        "outdated": {name: each.reason for name, each in states.items() if each.state == "outdated"},
        "unfinished": {name: each.state for name, each in states.items() if each.state in _UNFINISHED},
        "headline": headline(run, problem_gaps),
        "funnel": tables.funnel(run),
        "rewrite_settings": run.experiment.get("rewrite", {}),
        "attempts": tables.attempt_rows(run),
        "histograms": [*filter(None, histograms)],
        "lengths": list(lengths),
        "rejected": tables.rejected_rows(run),
        "health": health_rows(run),
        "suspects": tables.doubtful_rows(run),
        "bad_golds": run.rewrite_manifest.get("bad_golds", []),
        "doubts": bool(run.suspects.ranked or run.rewrite_manifest.get("bad_golds")),
        "gap": tables.gap_rows(groups),
        "problem_gaps": problem_gaps,
        "distributions": [*filter(None, distributions)],
        "curves": [*filter(None, shown_curves)],
        "difference_figures": [
            figures.differences(by_benchmark, f"{anchor}-difference-{number}", f"{model} − base")
            for number, (model, by_benchmark) in enumerate(run.differences.items())
        ],
        "answers": choose_answers(run, NUM_ANSWERS // num_runs, MAX_ANSWER_BYTES // num_runs),
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
