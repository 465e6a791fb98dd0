"""Progress of each stage of a round, from what its folder holds and when that was written.

Nothing in a folder says whether a process still works on it. A stage that has begun is `going` while its newest file is
young, and `quiet` after that: interrupted, or loading a model.
"""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean, median
from typing import Any, Literal

from pyarrow import fs

from ossft_ray.common.storage import Folder
from ossft_ray.common.types import ORIGINS
from ossft_ray.run_folder import names
from ossft_ray.run_folder.line_log import read_lines
from ossft_ray.run_folder.parts import counts_of_parts
from ossft_ray.run_folder.reader import RunFolder, read_json
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
    written_at: float | None = None  # Unix time of the newest file
    done: int | None = None
    total: int | None = None  # None while it is not known
    unit: str = ""
    seconds_left: float | None = None  # an estimate; only while the stage is going
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        return self.state in ("complete", "not needed")


@dataclass(frozen=True)
class _Progress:
    """What a stage's folder says of its progress."""

    is_complete: bool
    done: int
    total: int | None
    unit: str
    details: dict[str, Any]
    seconds_left: float | None = None
    quiet_seconds: float = _QUIET_SECONDS


def read_stages(run: RunFolder, now: float) -> list[StageStatus]:
    """The stages of one round in their order; `now` is a Unix time.

    Raises:
        InputError: a part was not written by ossft, or a file is not JSON.
        OSError: a file cannot be read.
    """
    return [*(_stage(run, name, now) for name in names.STAGES), _report(run)]


def _stage(run: RunFolder, name: str, now: float) -> StageStatus:
    files = _files(run.folder / name)
    if not files:
        return StageStatus(name, "not needed" if name == names.REWRITE and run.examples_elsewhere else "not begun")
    written_at, found = _newest(files), _PROGRESS[name](run, files, now)
    state: State = "quiet" if now - written_at > found.quiet_seconds else "going"
    if found.is_complete:
        state = "complete"
    seconds_left = found.seconds_left if state == "going" else None
    return StageStatus(name, state, written_at, found.done, found.total, found.unit, seconds_left, found.details)


def _report(run: RunFolder) -> StageStatus:
    file = run.folder.filesystem.get_file_info(f"{run.folder.path}/{names.REPORT}")
    if file.type != fs.FileType.File:
        return StageStatus("report", "not begun")
    return StageStatus("report", "complete", _newest([file]))


def _rewrite(run: RunFolder, files: list[fs.FileInfo], now: float) -> _Progress:
    done, total = run.progress()
    details = {key: run.rewrite_counts.get(key) for key in ("origins", "dropped", "attempts", "generated_tokens")}
    if run.rewrite_manifest is not None:
        details["seconds"] = run.rewrite_manifest.get("seconds")
        return _Progress(True, done, total, "problems", details)
    details |= {"parts": len(run.part_counts), "parts_total": run.input_manifest.get("num_parts")}
    details["under_way"] = _under_way(run.rewrite)
    left = _rewriting_left(run, total - done, now) if total is not None else None
    return _Progress(False, done, total, "problems", details, left)


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


def _score(run: RunFolder, files: list[fs.FileInfo], now: float) -> _Progress:
    folder = run.folder / names.SCORE
    if (manifest := run.score_manifest) is not None:
        tokens = sum(manifest.get(name, {}).get("tokens", 0) for name in ("kept", "expert_originals"))
        done = len(folder.names(names.PARTS))
        return _Progress(True, done, done, "parts", {"tokens": tokens})
    parts = counts_of_parts(folder)
    examples = Folder.at(run.examples_elsewhere) if run.examples_elsewhere else run.rewrite
    total = len(examples.names(names.PARTS))
    left = fmean(counts["seconds"] for counts in parts) * (total - len(parts)) if parts else None
    details = {"tokens": sum(counts["tokens"] for counts in parts)}
    return _Progress(False, len(parts), total or None, "parts", details, left)


def _train(run: RunFolder, files: list[fs.FileInfo], now: float) -> _Progress:
    newest = run.metrics[-1] if run.metrics else {}
    details = {key: newest.get(key) for key in ("loss", "cross_entropy", "tokens_per_second")}
    if (manifest := run.train_manifest) is not None:
        details |= {key: manifest.get(key) for key in ("kept_step", "seconds")}
        return _Progress(True, manifest["steps"], manifest["steps"], "steps", details)
    # A checkpoint counts once it is marked as complete.
    folders = [file.path.split("/")[-2] for file in files if file.base_name == names.COMPLETE]
    steps = [int(name.removeprefix("step-")) for name in folders if name.startswith("step-")]
    details["checkpoint"] = max(steps, default=None)
    done, total = newest.get("step", 0), newest.get("num_steps")
    recent = [step["seconds"] for step in run.metrics[-_NUM_RECENT_STEPS:] if "seconds" in step]
    seconds = median(recent) if recent else 0.0
    left = seconds * (total - done) if seconds and total is not None else None
    return _Progress(False, done, total, "steps", details, left, max(_QUIET_SECONDS, _QUIET_STEPS * seconds))


def _evaluate(run: RunFolder, files: list[fs.FileInfo], now: float) -> _Progress:
    folder = run.folder / names.EVALUATE
    paths = [file.path.removeprefix(f"{folder.path}/").split("/") for file in files]
    parts = Counter(tuple(path[:2]) for path in paths if len(path) == 3 and path[2].startswith("part-"))
    sizes = {path[0]: read_json(folder / path[0], names.SIZES) or {} for path in paths if path[1:] == [names.SIZES]}
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
    is_complete = set(expected) <= set(averages) and done >= total
    return _Progress(is_complete, done, total or None, "parts", {"models": models, "averages": averages})


_PROGRESS = {names.REWRITE: _rewrite, names.SCORE: _score, names.TRAIN: _train, names.EVALUATE: _evaluate}


def _files(folder: Folder) -> list[fs.FileInfo]:
    """All files below a folder; none if there is no folder."""
    infos = folder.filesystem.get_file_info(fs.FileSelector(folder.path, allow_not_found=True, recursive=True))
    return [info for info in infos if info.type == fs.FileType.File]


def _newest(files: list[fs.FileInfo]) -> float:
    """Unix time of the newest of these files."""
    return float(max(file.mtime.timestamp() for file in files))
