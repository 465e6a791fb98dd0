"""A run's status as lines for a terminal: one for each stage, and the command that comes next."""

from collections.abc import Iterator
from typing import Any

from rich.text import Text

from ossft_ray.common.durations import duration
from ossft_ray.run_folder.status import StageStatus, Status
from ossft_ray.terminal.show import escape_controls

_STYLES = {"complete": "green", "running": "cyan", "stopped": "yellow", "failed": "red", "outdated": "yellow"}


def status_lines(status: Status) -> Iterator[Text]:
    """What to print, line by line."""
    for number, stages in enumerate(status.rounds, start=1):
        yield Text(escape_controls(status.run) + (f", round {number}" if len(status.rounds) > 1 else ""), "bold")
        for stage in stages:
            state = (f"{stage.state:<11}", _STYLES.get(stage.state, "dim"))
            line = Text.assemble(f"{stage.name:<9} ", state, f"  {escape_controls('; '.join(_words(stage)))}")
            line.rstrip()
            yield line
            if stage.reason:
                yield Text(f"{'':<23}{escape_controls(stage.reason)}")
            if stage.state in ("running", "stopped", "failed") and stage.last_activity is not None:
                yield Text(f"{'':<23}last activity {duration(max(0.0, status.now - stage.last_activity))} ago")
    yield Text(f"next: {_next(status)}", "bold")


def _next(status: Status) -> str:
    if status.next is not None:
        is_typed = "--config" in status.next or status.next.startswith("ossft demo")
        return status.next if is_typed else f"{status.next} --config FILE.toml"
    is_running = any(stage.state == "running" for stages in status.rounds for stage in stages)
    return "nothing while a stage is running" if is_running else "nothing, the run is complete"


def _words(stage: StageStatus) -> Iterator[str]:
    if stage.done is not None:
        of_total = "" if stage.state == "complete" or stage.total is None else f" of {stage.total:,}"
        yield f"{stage.done:,}{of_total} {stage.unit}"
    if stage.name in _DETAILS:
        yield from _DETAILS[stage.name](stage.details)
    if stage.seconds_left is not None:
        yield f"about {duration(stage.seconds_left)} left"


def _rewrite(details: dict[str, Any]) -> Iterator[str]:
    origins = {**details.get("origins", {}), "dropped": details.get("dropped")}
    if any(origins.values()):
        yield ", ".join(f"{count:,} {origin}" for origin, count in origins.items() if count)
    if details.get("parts_total"):
        yield f"parts {details['parts']:,} of {details['parts_total']:,}"
    if details.get("generated_tokens"):
        yield f"{details['generated_tokens']:,} tokens in {details['attempts']:,} attempts"
    if (under_way := details.get("under_way")) and under_way["attempts"]:
        yield (
            f"{under_way['parts']:,} parts in progress with {under_way['solved']:,} problems solved "
            f"in {under_way['attempts']:,} attempts"
        )


def _score(details: dict[str, Any]) -> Iterator[str]:
    if details.get("tokens"):
        yield f"{details['tokens']:,} tokens"


def _train(details: dict[str, Any]) -> Iterator[str]:
    if details.get("loss") is not None:
        yield f"loss {details['loss']:.4f}, cross-entropy {details['cross_entropy']:.4f}"
    if details.get("tokens_per_second") is not None:
        yield f"{details['tokens_per_second']:,.0f} tokens/s"
    if details.get("checkpoint") is not None:
        yield f"checkpoint of step {details['checkpoint']:,}"


def _evaluate(details: dict[str, Any]) -> Iterator[str]:
    for model, benchmarks in details.get("models", {}).items():
        done = sum(benchmark["parts_done"] >= benchmark["parts"] for benchmark in benchmarks.values())
        average = details["averages"].get(model)
        mean = f", {100 * average:.1f}% on average" if average is not None else ""
        yield f"{model}: {done} of {len(benchmarks)} benchmarks{mean}"


_DETAILS = {"rewrite": _rewrite, "score": _score, "train": _train, "evaluate": _evaluate}
