"""What a person sees of `ossft check --cluster` and `--probe`: a line a node, and what a run will take."""

import math
from collections.abc import Iterator

from rich.table import Table

from ossft_ray.common.durations import duration
from ossft_ray.stages.check.budget import Estimate
from ossft_ray.stages.check.estimate import Interval
from ossft_ray.stages.check.node_checks import ClusterFindings, Node

_WORDS = {
    "self": "the policy's own (self)",
    "guided": "re-solved with guidance (guided)",
    "expert": "the expert's (expert)",
    "dropped": "none (dropped)",
}


def nodes_table(found: ClusterFindings) -> Table:
    """A line a node: what it has and what is free."""
    table = Table(box=None, pad_edge=False)
    for heading in ("node", "GPUs", "CPUs", "output free", "tmp free", "Ray's free", "/dev/shm", "clock", "policy"):
        table.add_column(heading, justify="left" if heading in ("node", "GPUs", "policy") else "right")
    for node in found.nodes:
        table.add_row(
            f"{node.host} ({node.address})",
            _gpus(node),
            f"{node.ray_cpus:g}",
            *(size(of) if of is not None else "-" for of in (node.output_free, node.tmp_free, node.ray_tmp_free)),
            size(node.shm_bytes),
            f"{node.clock_offset_seconds:+.2f} s",
            "readable" if node.policy_refusal is None else "NOT readable",
        )
    return table


def estimate_lines(estimate: Estimate, price: float | None, free: int | None = None) -> Iterator[Table | str]:
    """The pass rates, the funnel, tokens, time, memory, disk (`free` bytes of it), the cost at `price` a GPU-hour."""
    yield (
        f"{estimate.sampled:,} of {estimate.population:,} problems were probed, drawn at random; "
        "in brackets 95% intervals for all of them"
    )
    for stage, (count, num, share) in estimate.first_draws.items():
        yield f"right at the first draw, {stage}: {count} of {num}, {_percent(share)}"
    yield ""
    yield _funnel(estimate)
    yield ""
    yield f"tokens generated   {interval(estimate.generated_tokens)} in {interval(estimate.attempts)} attempts"
    yield f"tokens of prompts  {interval(estimate.prompt_tokens)}"
    too_long = f", {interval(estimate.too_long)} set aside as too long" if estimate.too_long.value else ""
    yield (
        f"to train on        {interval(estimate.examples)} examples, {interval(estimate.response_tokens)} tokens "
        f"of responses, {interval(estimate.steps)} steps{too_long}"
    )
    yield ""
    yield _stages(estimate)
    for reason in estimate.missing:
        yield f"not in the estimate: {reason}"
    yield from _notes(estimate, price, free)


def _notes(estimate: Estimate, price: float | None, free: int | None) -> Iterator[str]:
    memory = "GPU memory" if estimate.device == "GPU" else "main memory"
    yield ""
    trainer = f", {size(estimate.train_memory)} of a training worker" if estimate.train_memory else ""
    yield f"peak {memory}  {size(estimate.policy_memory)} of a policy{trainer}"
    parts = ", ".join(f"{name} {size(num)}" for name, num in estimate.disk.items())
    needed = sum(estimate.disk.values())
    yield f"disk  {size(needed)}: {parts} (logs and evaluation's samples not counted)"
    if free is not None and free < needed:
        yield f"      but only {size(free)} are free there: free some, or choose another [run] output"
    if price is None:
        return
    cost = estimate.hours.times(price)
    note = "" if estimate.device == "GPU" else ", taking a machine for a GPU: there is none here"
    yield f"cost  {cost.value:,.2f} ({cost.low:,.2f} to {cost.high:,.2f}) at {price:g} a {estimate.device}-hour{note}"


def _funnel(estimate: Estimate) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("kept solution")
    for heading in ("sample", "share", f"of all {estimate.population:,}"):
        table.add_column(heading, justify="right")
    for origin, (count, problems) in estimate.funnel.items():
        table.add_row(_WORDS[origin], str(count), f"{count / estimate.sampled:.0%}", interval(problems))
    return table


def _stages(estimate: Estimate) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("stage")
    for heading in ("time", "interval", f"{estimate.device}s", f"{estimate.device}-hours", "interval"):
        table.add_column(heading, justify="right")
    for stage in estimate.stages:
        table.add_row(stage.name, *_time(stage.seconds), f"{stage.devices:g}", *_hours(stage.hours))
    table.add_section()
    what = "all" if estimate.rounds == 1 else f"all, {estimate.rounds} rounds"
    table.add_row(what, *_time(estimate.seconds), "", *_hours(estimate.hours), style="bold")
    return table


def _time(seconds: Interval) -> tuple[str, str]:
    high = duration(seconds.high) if math.isfinite(seconds.high) else "?"
    return duration(seconds.value), f"{duration(seconds.low)} to {high}"


def _hours(hours: Interval) -> tuple[str, str]:
    return f"{hours.value:,.3g}", f"{hours.low:,.3g} to {hours.high:,.3g}"


def _percent(share: Interval) -> str:
    return f"{share.value:.0%} ({share.low:.0%} to {share.high:.0%})"


def interval(of: Interval) -> str:
    """A number with its interval in brackets.

    >>> interval(Interval(1500.4, 1200.0, 1800.0)), interval(Interval.exactly(3))
    ('1,500 (1,200 to 1,800)', '3')
    """
    if of.low == of.high:
        return f"{of.value:,.0f}"
    return f"{of.value:,.0f} ({of.low:,.0f} to {of.high:,.0f})"


def size(num_bytes: float) -> str:
    """Bytes in the unit that suits them.

    >>> size(512), size(3 << 20), size(2.5 * (1 << 30))
    ('512 B', '3.0 MiB', '2.5 GiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:,.0f} B" if unit == "B" else f"{num_bytes:,.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:,.1f} TiB"


def _gpus(node: Node) -> str:
    """As torch sees them, by name; Ray's number where it is another."""
    names = {name: node.torch_gpus.count(name) for name in node.torch_gpus}
    seen = ", ".join(f"{count} {name}" for name, count in names.items()) or "none"
    return seen if node.ray_gpus == len(node.torch_gpus) else f"{seen} (Ray: {node.ray_gpus:g})"
