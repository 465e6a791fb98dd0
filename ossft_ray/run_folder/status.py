"""`ossft status`: how far a run is, from its folder alone, without Ray.

Nothing in a folder says whether a process still works on it. A stage that has begun is `going` while its newest file is
young, and `quiet` after that: interrupted, or loading a model.
"""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from statistics import fmean, median
from typing import Any, Literal

from pyarrow import fs

from ossft_ray.common.storage import Folder
from ossft_ray.common.types import ORIGINS
from ossft_ray.run_folder import names
from ossft_ray.run_folder.line_log import read_lines
from ossft_ray.run_folder.parts import counts_of_parts
from ossft_ray.run_folder.reader import RunFolder, open_rounds, read_json, storage_errors
from ossft_ray.run_folder.sessions import newest_session_start

State = Literal["not begun", "going", "quiet", "complete", "not needed"]
_QUIET_SECONDS = 120.0  # without a write
_QUIET_STEPS = 3.0  # of training, if they take longer than that
_NUM_RECENT_STEPS = 20  # whose median predicts the remaining ones
_NUM_READERS = 16  # of logs at the same time


@dataclass(frozen=True)
class StageStatus:
    """One stage of one round."""

    name: str
    state: State
    done: int | None = None
    total: int | None = None  # None while it is not known
    unit: str = ""
    seconds_left: float | None = None  # an estimate; only while the stage is going
    details: dict[str, Any] = field(default_factory=dict)
    written_at: float | None = None  # Unix time of the newest file


@dataclass(frozen=True)
class Status:
    """A run's rounds, each with its stages in order."""

    run: str
    now: float  # Unix time at which this holds
    rounds: list[list[StageStatus]]
    next: str | None  # the command that resumes the run; None if all is done, or something is going

    def as_json(self) -> dict[str, Any]:
        """What `ossft status --json` prints."""
        rounds = [{stage.name: asdict(stage) for stage in stages} for stages in self.rounds]
        return {"run": self.run, "now": self.now, "rounds": rounds, "next": self.next}


def status(run: str, now: float | None = None) -> Status:
    """The status of the run in a folder, a local path or an object-store URI. The run may be under way.

    Raises:
        InputError: the folder does not exist or holds no run, or a file in it cannot be read.
    """
    rounds = open_rounds(run)
    now = time.time() if now is None else now
    with storage_errors(run):
        found = [[*(_stage(each, name, now) for name in names.STAGES), _report(each)] for each in rounds]
    num_rounds = max(len(rounds), rounds[0].experiment.get("loop", {}).get("rounds", 1))
    return Status(run, now, found, next_command(found, num_rounds))


def next_command(rounds: list[list[StageStatus]], num_rounds: int) -> str | None:
    """The command that resumes a run of `num_rounds` rounds; None if nothing is left to do, or something is going."""
    stages = [stage for stages in rounds for stage in stages]
    if any(stage.state == "going" for stage in stages):
        return None
    num_over = max((number for number, stage in enumerate(stages, start=1) if stage.state == "complete"), default=0)
    # A stage that never began before a complete one was not needed, such as scoring for a loss without a reference.
    pending = [stage for stage in stages[:num_over] if stage.state == "quiet"]
    pending += [stage for stage in stages[num_over:] if stage.state != "not needed"]
    if not pending and len(rounds) == num_rounds:
        return None
    return f"ossft {pending[0].name}" if pending and num_rounds == 1 else "ossft run"


def _stage(run: RunFolder, name: str, now: float) -> StageStatus:
    selector = fs.FileSelector(f"{run.folder.path}/{name}", allow_not_found=True, recursive=True)
    files = [info for info in run.folder.filesystem.get_file_info(selector) if info.type == fs.FileType.File]
    if not files:
        return StageStatus(name, "not needed" if name == names.REWRITE and run.examples_elsewhere else "not begun")
    written_at = max(file.mtime.timestamp() for file in files)
    found = replace(_STATUS_OF[name](run, files, now), written_at=written_at)  # going, or complete
    quiet_after = max(_QUIET_SECONDS, _QUIET_STEPS * _step_seconds(run)) if name == names.TRAIN else _QUIET_SECONDS
    if found.state == "going" and now - written_at > quiet_after:
        return replace(found, state="quiet", seconds_left=None)
    return found


def _report(run: RunFolder) -> StageStatus:
    file = run.folder.filesystem.get_file_info(f"{run.folder.path}/{names.REPORT}")
    if file.type != fs.FileType.File:
        return StageStatus("report", "not begun")
    return StageStatus("report", "complete", written_at=file.mtime.timestamp())


def _rewrite(run: RunFolder, files: list[fs.FileInfo], now: float) -> StageStatus:
    done, total = run.progress()
    details = {key: run.rewrite_counts.get(key) for key in ("origins", "dropped", "attempts", "generated_tokens")}
    if run.rewrite_manifest:
        details["seconds"] = run.rewrite_manifest.get("seconds")
        return StageStatus(names.REWRITE, "complete", done, total, "problems", details=details)
    details |= {"parts": len(run.part_counts), "parts_total": run.input_manifest.get("num_parts")}
    details["under_way"] = _under_way(run.rewrite)
    left = _rewriting_left(run, total - done, now) if total is not None else None
    return StageStatus(names.REWRITE, "going", done, total, "problems", left, details)


def _under_way(folder: Folder) -> dict[str, int]:
    """Unfinished parts: their number, the attempts so far, and the problems with a correct one."""
    finished = {name.removesuffix(".parquet") for name in folder.names(names.PARTS)}
    logs = folder / names.UNFINISHED
    unfinished = [name for name in logs.names("part-*.jsonl") if name.split(".")[0] not in finished]
    with ThreadPoolExecutor(_NUM_READERS) as readers:
        ends = [line for lines in readers.map(partial(read_lines, logs), unfinished) for line in lines if "end" in line]
    return {
        "parts": len({name.split(".")[0] for name in unfinished}),
        "attempts": len(ends),
        "solved": len({line["end"] for line in ends if line["attempt"]["correct"]}),
    }


def _rewriting_left(run: RunFolder, num_left: int, now: float) -> float | None:
    """Seconds that `num_left` problems take, at the pace of the parts that the newest session began and finished."""
    began = newest_session_start(run.rewrite)
    recent = [counts for counts in run.part_counts if counts["started"] >= began]
    num_done = sum(counts.get(name, 0) for counts in recent for name in (*ORIGINS, "dropped"))
    if not num_done:
        return None
    ended = max(counts["ended"] for counts in recent)
    seconds = ended - min(counts["started"] for counts in recent)
    return max(0.0, seconds / num_done * num_left - (now - ended))


def _score(run: RunFolder, files: list[fs.FileInfo], now: float) -> StageStatus:
    folder = run.folder / names.SCORE
    if manifest := run.score_manifest:
        tokens = sum(manifest.get(name, {}).get("tokens", 0) for name in ("kept", "expert_originals"))
        done = len(folder.names(names.PARTS))
        return StageStatus(names.SCORE, "complete", done, done, "parts", details={"tokens": tokens})
    parts = counts_of_parts(folder)
    examples = Folder.at(run.examples_elsewhere) if run.examples_elsewhere else run.rewrite
    total = len(examples.names(names.PARTS))
    left = fmean(counts["seconds"] for counts in parts) * (total - len(parts)) if parts else None
    details = {"tokens": sum(counts["tokens"] for counts in parts)}
    return StageStatus(names.SCORE, "going", len(parts), total or None, "parts", left, details)


def _train(run: RunFolder, files: list[fs.FileInfo], now: float) -> StageStatus:
    newest = run.metrics[-1] if run.metrics else {}
    details = {key: newest.get(key) for key in ("loss", "cross_entropy", "tokens_per_second")}
    if manifest := run.train_manifest:
        details |= {key: manifest.get(key) for key in ("kept_step", "seconds")}
        steps = manifest["steps"]
        return StageStatus(names.TRAIN, "complete", steps, steps, "steps", details=details)
    # A checkpoint counts once it is marked as complete.
    folders = [file.path.split("/")[-2] for file in files if file.base_name == names.COMPLETE]
    checkpoints = [int(name.removeprefix("step-")) for name in folders if name.startswith("step-")]
    details["checkpoint"] = max(checkpoints, default=None)
    done, total = newest.get("step", 0), newest.get("num_steps")
    seconds = _step_seconds(run)
    left = seconds * (total - done) if seconds and total is not None else None
    return StageStatus(names.TRAIN, "going", done, total, "steps", left, details)


def _step_seconds(run: RunFolder) -> float:
    """How long a training step takes: the median of the newest ones; 0 before the first."""
    return median([step["seconds"] for step in run.metrics[-_NUM_RECENT_STEPS:] if "seconds" in step] or [0.0])


def _evaluate(run: RunFolder, files: list[fs.FileInfo], now: float) -> StageStatus:
    folder = run.folder / names.EVALUATE
    paths = [file.path.removeprefix(f"{folder.path}/").split("/") for file in files]
    parts = Counter(tuple(path[:2]) for path in paths if len(path) == 3 and path[2].startswith("part-"))
    sizes = {path[0]: read_json(folder / path[0], names.SIZES) for path in paths if path[1:] == [names.SIZES]}
    others = run.experiment.get("evaluate", {}).get("models", {})
    expected = [names.BASE, *([names.TRAINED] if run.train_manifest else []), *others]
    usual: dict[str, Any] = next(iter(sizes.values()), {})  # for a model that has not begun
    models = {
        model: {name: {**size, "parts_done": parts[model, name]} for name, size in sizes.get(model, usual).items()}
        for model in dict.fromkeys([*expected, *sizes])
    }
    total = sum(benchmark["parts"] for benchmarks in models.values() for benchmark in benchmarks.values())
    averages = {model: fmean(result["avg"] for result in results.values()) for model, results in run.accuracies.items()}
    done = parts.total()
    state: State = "complete" if set(expected) <= set(averages) and done >= total else "going"
    details = {"models": models, "averages": averages}
    return StageStatus(names.EVALUATE, state, done, total or None, "parts", details=details)


_STATUS_OF = {names.REWRITE: _rewrite, names.SCORE: _score, names.TRAIN: _train, names.EVALUATE: _evaluate}
