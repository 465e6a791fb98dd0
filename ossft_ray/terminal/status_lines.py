"""How far a run is, as lines for a terminal: one a stage, and what to do next."""

from collections.abc import Iterator
from typing import Any

from rich.text import Text

from ossft_ray.common.durations import duration
from ossft_ray.run_folder.stage_status import Stage
from ossft_ray.run_folder.status import Status
from ossft_ray.terminal.show import plain

_STYLES = {"complete": "green", "going": "cyan", "quiet": "yellow"}


def status_lines(status: Status) -> Iterator[Text]:
    """What to print, line by line."""
    for number, stages in enumerate(status.rounds, start=1):
        yield Text(plain(status.run) + (f", round {number}" if len(status.rounds) > 1 else ""), "bold")
        for stage in stages:
            words = "; ".join([*_progress(stage), *_DETAILS.get(stage.name, _nothing)(stage.details), *_left(stage)])
            line = Text.assemble(
                f"{stage.name:<9} ", (f"{stage.state:<10}", _STYLES.get(stage.state, "dim")), f"  {plain(words)}"
            )
            line.rstrip()
            yield line
            if stage.state in ("going", "quiet"):
                yield Text(f"{'':<22}{_written(stage, status.now)}")
    yield _next(status)


def _next(status: Status) -> Text:
    if status.next is not None:
        return Text(f"next: {status.next} --config FILE.toml", "bold")
    is_going = any(stage.state == "going" for stages in status.rounds for stage in stages)
    return Text("next: nothing; it is going" if is_going else "next: nothing; all is done", "bold")


def _progress(stage: Stage) -> list[str]:
    if stage.done is None:
        return []
    if stage.state == "complete" or stage.total is None:
        return [f"{stage.done:,} {stage.unit}"]
    return [f"{stage.done:,} of {stage.total:,} {stage.unit}"]


def _left(stage: Stage) -> list[str]:
    return [f"about {duration(stage.seconds_left)} left"] if stage.seconds_left is not None else []


def _written(stage: Stage, now: float) -> str:
    ago = f"last written to {duration(max(0.0, now - (stage.written_at or now)))} ago"
    return ago if stage.state == "going" else f"{ago}: interrupted, or loading; the same command goes on"


def _nothing(details: dict[str, Any]) -> list[str]:
    return []


def _rewriting(details: dict[str, Any]) -> list[str]:
    origins = {**details.get("origins", {}), "dropped": details.get("dropped")}
    words = [", ".join(f"{count:,} {origin}" for origin, count in origins.items() if count)]
    if details.get("parts_total"):
        words.append(f"parts {details['parts']:,} of {details['parts_total']:,}")
    if details.get("generated_tokens"):
        words.append(f"{details['generated_tokens']:,} tokens in {details['attempts']:,} attempts")
    if (under_way := details.get("under_way")) and under_way["parts"]:
        words.append(
            f"{under_way['parts']:,} parts under way with {under_way['solved']:,} problems solved "
            f"in {under_way['attempts']:,} attempts"
        )
    return [word for word in words if word]


def _scoring(details: dict[str, Any]) -> list[str]:
    return [f"{details['tokens']:,} tokens"] if details.get("tokens") else []


def _training(details: dict[str, Any]) -> list[str]:
    words = []
    if details.get("loss") is not None:
        words.append(f"loss {details['loss']:.4f}, cross-entropy {details['cross_entropy']:.4f}")
    if details.get("tokens_per_second") is not None:
        words.append(f"{details['tokens_per_second']:,.0f} tokens/s")
    if details.get("checkpoint") is not None:
        words.append(f"checkpoint of step {details['checkpoint']:,}")
    return words


def _evaluating(details: dict[str, Any]) -> list[str]:
    words = []
    for model, benchmarks in details.get("models", {}).items():
        done = sum(benchmark["parts_done"] >= benchmark["parts"] for benchmark in benchmarks.values())
        average = details["averages"].get(model)
        mean = f", {100 * average:.1f}% on average" if average is not None else ""
        words.append(f"{model}: {done} of {len(benchmarks)} benchmarks{mean}")
    return words


_DETAILS = {"rewrite": _rewriting, "score": _scoring, "train": _training, "evaluate": _evaluating}
