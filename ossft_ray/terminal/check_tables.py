"""The output of `ossft check`, `--cluster` and `--probe`: lines and tables."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from rich.filesize import decimal
from rich.table import Table

from ossft_ray.common.durations import duration
from ossft_ray.common.verdict import UNJUDGED, UNPARSED
from ossft_ray.config import Experiment
from ossft_ray.data.gold_check import CONTRADICTED, NOT_STATED, SOLUTION_UNPARSED, SOUND
from ossft_ray.data.problems import SourceLayout
from ossft_ray.run_folder.names import STAGES
from ossft_ray.stages.check.forecast import Forecast
from ossft_ray.stages.check.node_checks import ClusterReport, NodeReport
from ossft_ray.stages.check.stage import Findings, ShownProblem
from ossft_ray.terminal.results import KEPT, counts_text, plain_table
from ossft_ray.terminal.show import escape_controls

_NUM_SHOWN = 5  # of the bad gold answers
_GOLD_FINDINGS = {
    SOUND: "consistent",
    NOT_STATED: "not stated in the solution",
    CONTRADICTED: "contradicted by the solution",
    UNPARSED: "unreadable",
    SOLUTION_UNPARSED: "unreadable in the solution",
    UNJUDGED: "left to the judge",
}
_NUM_LAYOUTS = 3
_MAX_LINES, _MAX_CHARACTERS = 12, 600  # of each text of a problem


def findings_lines(findings: Findings, experiment: Experiment) -> Iterator[str]:
    """What a sound experiment consists of."""
    counts, data = findings.counts, experiment.data
    yield from _layout_lines(findings.layouts)
    for number, shown in enumerate(findings.shown, start=1):
        yield from _problem_lines(number, shown)
    yield f"problems:          {counts.problems} usable; set aside: {counts_text(counts.rejected)}"
    for rejection in counts.first_rejections.values():
        yield escape_controls(f"                   {rejection}")
    yield f'duplicates:        {counts.duplicates} (duplicates = "{data.duplicates}")'
    golds = {_GOLD_FINDINGS.get(finding, finding): number for finding, number in counts.gold_findings.items()}
    checked = "not checked" if data.bad_golds == "ignore" else counts_text(golds)
    yield f'gold answers:      {checked} (bad_golds = "{data.bad_golds}")'
    for bad in counts.bad_golds[:_NUM_SHOWN]:
        solution = f", the solution says {bad['solution_says']}" if "solution_says" in bad else ""
        finding = f"{bad['problem_id']}: {_GOLD_FINDINGS.get(bad['finding'], bad['finding'])}"
        yield escape_controls(f"                   {finding}: the answer is {bad['answer']}{solution}")
    if len(counts.bad_golds) > _NUM_SHOWN:
        yield f"                   and {len(counts.bad_golds) - _NUM_SHOWN} more"
    steps = findings.wrong_steps
    yield f"arithmetic:        {len(steps)} expert solutions hold a false equation"
    yield from (f"                   {problem_id}: {steps[problem_id]}" for problem_id in list(steps)[:_NUM_SHOWN])
    overlap = "not looked for" if data.contamination == "ignore" else counts_text(counts.contamination)
    yield f'benchmark overlap: {overlap} (contamination = "{data.contamination}")'
    if findings.date is not None:
        yield f"date:              the chat template prints today's date; in this run it is {findings.date}"
    yield f"policy:            context {findings.context_length} tokens, turns end with {findings.end_of_turn}"
    yield f"                   {findings.thinking}"
    if "external" in experiment.rewrite.stages:
        other = experiment.rewrite.external_alignment
        place = f"behind {other.url}" if other.url else "in an engine of each policy's worker"
        yield f"external:          {other.model} {place}, up to {other.num_samples} samples a problem"
    if findings.training_memory is not None:
        yield f"training memory:   {findings.training_memory}"
    yield f"benchmarks:        {', '.join(f'{name} ({size})' for name, size in findings.benchmarks.items()) or 'none'}"
    yield "the experiment is sound"


def _layout_lines(layouts: list[SourceLayout]) -> Iterator[str]:
    """For each layout: the columns that are read, the others, and those that may belong to the question."""
    sources: dict[tuple[Any, ...], list[str]] = {}
    for layout in layouts:
        columns = ", ".join(f"{role} = {name}" for role, name in layout.columns.items())
        sources.setdefault((f"{layout.name}: {columns}", layout.unread, layout.doubtful), []).append(layout.source)
    for (columns, unread, doubtful), names in list(sources.items())[:_NUM_LAYOUTS]:
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        yield escape_controls(f"data:              {names[0]}{others}, {columns}")
        if unread:
            yield escape_controls(f"                   not read: {', '.join(unread)}")
        if doubtful:
            hint = "name it in [data] columns.context if it does"
            yield escape_controls(f"                   may belong to the question: {', '.join(doubtful)}; {hint}")
    if len(sources) > _NUM_LAYOUTS:
        yield f"                   and {len(sources) - _NUM_LAYOUTS} more layouts"


def _problem_lines(number: int, shown: ShownProblem) -> Iterator[str]:
    """A problem as the policy will see it, and the texts that it will not see."""
    problem = shown.problem
    yield escape_controls(f"problem {number}:         {problem.problem_id}, as the policy will see it")
    yield from _indented(shown.prompt, "  | ")
    yield from _indented(f"gold answer: {problem.answer or '(none)'}", "  ")
    yield from _indented(f"expert solution: {problem.expert_solution}", "  ")


def _indented(text: str, margin: str) -> Iterator[str]:
    lines = text[:_MAX_CHARACTERS].strip("\n").split("\n")
    cut = len(lines) > _MAX_LINES or len(text) > _MAX_CHARACTERS
    for line in [*lines[:_MAX_LINES], *(["..."] if cut else [])]:
        yield margin + escape_controls(line)


def cluster_lines(report: ClusterReport) -> Iterator[Table | str]:
    """One row for each node, the speed of the all-reduce, and the problems."""
    yield ""
    yield _nodes_table(report)
    if report.all_reduce is not None:
        yield report.all_reduce
    if report.training_memory is not None:
        yield f"training needs {report.training_memory}"
    for fault in report.faults:
        yield f"problem: {fault}"
    if not report.faults:
        yield "the cluster is sound"


def forecast_lines(found: Forecast, price: float | None = None) -> Iterator[Table | str]:
    """The funnel, tokens, time, memory and disk of the run, and its cost at `price` for each GPU-hour."""
    measured, plan, scale = found.measured, found.plan, found.scale
    yield f"\nthe probe took {measured.num_problems:,} of {plan.num_problems:,} problems, drawn at random\n"
    yield _funnel_table(found)
    yield (
        f"\nrewriting  {scale * measured.generated_tokens:,.0f} tokens in {scale * measured.attempts:,.0f} attempts, "
        f"{scale * measured.prompt_tokens:,.0f} tokens of prompts"
    )
    too_long = f", {scale * measured.too_long:,.0f} set aside as too long" if measured.too_long else ""
    yield f"training   {found.examples:,.0f} examples in {found.steps:,} steps{too_long}\n"
    yield _stages_table(found)
    if missing := [name for name in STAGES if name not in {stage.name for stage in found.stages}]:
        yield f"not in this forecast: {', '.join(missing)}"
    yield (
        "\nTimes are in proportion to the probe's. A probe with fewer than "
        f"{plan.problems_in_flight * plan.num_policies:,} problems does\nnot fill the policies' batches, so rewriting "
        "and evaluation will take less.\n"
    )
    yield from _resource_lines(found, price)


def _nodes_table(report: ClusterReport) -> Table:
    headings = ("GPUs", "CPUs", "output free", "tmp free", "Ray's free", "/dev/shm", "policy")
    table = plain_table("node", *headings, no_wrap=False)
    table.columns[1].justify = table.columns[-1].justify = "left"
    for node in report.nodes:
        table.add_row(
            node.name,
            _gpus(node),
            f"{node.ray_cpus:g}",
            "-" if node.output_free is None else decimal(node.output_free),
            *map(decimal, (node.tmp_free, node.ray_tmp_free, node.shm_bytes)),
            "readable" if node.policy_refusal is None else "NOT readable",
        )
    return table


def _gpus(node: NodeReport) -> str:
    """The GPUs that torch sees, by name, and Ray's number if it differs."""
    names = node.torch.names
    seen = ", ".join(f"{count} {name}" for name, count in Counter(names).items()) or "none"
    return seen if node.ray_gpus == len(names) else f"{seen} (Ray: {node.ray_gpus:g})"


def _funnel_table(found: Forecast) -> Table:
    num_problems = found.plan.num_problems
    table = plain_table("kept solution", "probe", "share", "95% interval", f"of all {num_problems:,}")
    for fate, (low, high) in found.funnel.items():
        count = found.measured.fates.get(fate, 0)
        share, of_all = f"{count / found.measured.num_problems:.0%}", f"{found.scale * count:,.0f}"
        table.add_row(KEPT[fate], str(count), share, f"{low:.0%} to {high:.0%}", of_all)
    return table


def _stages_table(found: Forecast) -> Table:
    device, rounds = found.plan.device, found.plan.rounds
    table = plain_table("stage", "time", f"{device}s", f"{device}-hours")
    for stage in found.stages:
        table.add_row(stage.name, duration(stage.seconds), f"{stage.devices:g}", f"{stage.hours:,.3g}")
    table.add_section()
    total = "all" if rounds == 1 else f"all, {rounds} rounds"
    table.add_row(total, duration(found.seconds), "", f"{found.hours:,.3g}", style="bold")
    return table


def _resource_lines(found: Forecast, price: float | None) -> Iterator[str]:
    measured, device, free = found.measured, found.plan.device, found.plan.free_bytes
    memory = "GPU memory" if device == "GPU" else "main memory"
    trainer = f", {decimal(measured.trainer_memory)} of a training worker" if measured.trainer_memory else ""
    yield f"peak {memory}  {decimal(measured.policy_memory)} of a policy{trainer}"
    needed = sum(found.disk.values())
    parts = ", ".join(f"{name} {decimal(num_bytes)}" for name, num_bytes in found.disk.items())
    yield f"disk  {decimal(needed)}: {parts}; without logs and evaluation samples"
    if free is not None:
        short = ", which is NOT enough: free some, or choose another [run] output" if free < needed else ""
        yield f"      {decimal(free)} are free{short}"
    if price is not None:
        note = "" if device == "GPU" else ", with each machine counted as a GPU"
        yield f"cost  {found.hours * price:,.2f} at {price:g} for each {device}-hour{note}"
