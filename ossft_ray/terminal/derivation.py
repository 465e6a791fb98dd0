"""A derived run, and the table of all ablations, on the terminal."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from ossft_ray.common.types import ORIGINS
from ossft_ray.common.uris import join
from ossft_ray.run_folder.names import REWRITE
from ossft_ray.stages.derive.comparison import AblationFigures
from ossft_ray.terminal.bars import print_lines, wrapped
from ossft_ray.terminal.results import counts_text, origins_table, plain_table

_AFTER = {"fallback": "fell back", "drop": "were dropped"}


def print_derivation(output: str, manifest: dict[str, Any]) -> None:
    """The problems of a derived run by origin, what it lacked, and its folder; `manifest` is that of its rewrite."""
    derived = manifest["derived"]
    lines = [f"derived from {derived['from']}: {derived['ablation']}, {manifest['examples']:,} rows, no new tokens"]
    if count := sum(derived["not_sampled"].values()):
        stages, after = " and ".join(derived["not_sampled"]), _AFTER[derived["unsampled"]]
        lines.append(
            f"{count:,} problems needed the {stages} stage, which that run did not sample for them, and {after}"
        )
    files = f"examples: {join(output, REWRITE)}"
    following = f"next: ossft score --config FILE --set run.output={output}"
    print_lines([origins_table(manifest), *(part for line in lines for part in wrapped(line)), files, following])


def print_ablations(run: str, compared: Sequence[AblationFigures]) -> None:
    """All ablations of a run, a row each."""
    lines = ["rows: training examples; self to dropped: problems by the author of the kept solution"]
    if any(figures.not_sampled for figures in compared):
        lines.append("not sampled: problems that need a stage in which the run drew no sample for them")
    if not any(figures.scored for figures in compared):
        lines.append("no complete scores of these rows, so no gap; run `ossft score` first")
    elif unscored := {each.name: each.rows - each.scored for each in compared if each.rows > each.scored}:
        lines.append(f"rows that the run's scores lack, and the gap leaves out: {counts_text(unscored)}")
    following = f"next: ossft derive {run} NEW --ablation NAME"
    print_lines([ablations_table(compared), "", *(part for line in lines for part in wrapped(line)), following])


def ablations_table(compared: Sequence[AblationFigures]) -> Table:
    """Rows, origins, and the gap of each ablation."""
    origins = [origin for origin in ORIGINS if origin != "external" or any(_count(each, origin) for each in compared)]
    optional = [name for name in ("dropped", "not sampled") if any(_count(each, name) for each in compared)]
    has_gap = any(figures.scored for figures in compared)
    gap = ("mean\nlog p", "effective\nsample\nsize") if has_gap else ()
    table = plain_table("ablation", "rows", *origins, *(name.replace(" ", "\n") for name in optional), *gap)
    table.padding, table.columns[0].no_wrap = (0, 1, 0, 0), True  # so that it fits 80 columns
    for figures in compared:
        counts = [figures.rows, *(_count(figures, name) for name in (*origins, *optional))]
        cells = [f"{count:,}" for count in counts]
        if has_gap:
            sums = figures.gap.figures()
            known = sums["tokens"] > 0
            cells += [f"{sums[key]:.3f}" if known else "" for key in ("mean_logprob", "effective_sample_size")]
        table.add_row(figures.name, *cells)
    return table


def _count(figures: AblationFigures, name: str) -> int:
    return figures.not_sampled if name == "not sampled" else figures.problems[name]
