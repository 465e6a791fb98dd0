"""A run's folder as one page of tables: what became of the problems, how training went, how good the models are.

Everything a model or a file wrote is escaped.
"""

import json
from typing import Any

import jinja2

from ossft_ray.config import Experiment
from ossft_ray.errors import InputError
from ossft_ray.storage import MANIFEST, Folder

PAGE = "report.html"
_NUM_CURVE_ROWS = 20


def report(experiment: Experiment) -> str:
    """Write `report.html` and return its path. Stages that are not there yet are left out.

    Raises:
        InputError: the run's folder has no finished stage.
    """
    folder = Folder.at(experiment.run.output)
    rewriting, training = _manifest(folder / "rewrite"), _manifest(folder / "train")
    scores = (folder / "evaluate").read_json("scores.json") if (folder / "evaluate").exists("scores.json") else None
    if not (rewriting or training or scores):
        raise InputError(f"[run] output: {experiment.run.output} has no finished stage to report on")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ossft_ray.report", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    html = environment.get_template("page.html").render(
        output=experiment.run.output,
        experiment=experiment.model_dump(mode="json"),
        rewriting=rewriting,
        training=training,
        curve=_thinned(folder / "train"),
        scores=scores,
        benchmarks=sorted({name for by_benchmark in (scores or {}).values() for name in by_benchmark}),
    )
    folder.write_bytes(PAGE, html.encode())
    return f"{folder.path}/{PAGE}"


def _manifest(folder: Folder) -> dict[str, Any] | None:
    return folder.read_json(MANIFEST) if folder.exists(MANIFEST) else None


def _thinned(folder: Folder) -> list[dict[str, Any]]:
    """Some twenty steps of the training curve, the first and the last among them."""
    if not folder.exists("metrics.jsonl"):
        return []
    steps = [json.loads(line) for line in folder.read_bytes("metrics.jsonl").splitlines()]
    stride = max(1, len(steps) // _NUM_CURVE_ROWS)
    return [*steps[:-1:stride], *steps[-1:]]
