"""How far is each stage of a round? Told from what its folder holds and when that was written.

Nothing in a folder says whether a process still works on it. A stage that was begun is `going` while its newest file is
young, and `quiet` after that: interrupted, or loading a model.
"""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean, median
from typing import Any, Literal

from pyarrow import fs

from ossft_ray.common.storage import Folder, read_lines
from ossft_ray.common.types import ORIGINS
from ossft_ray.run_folder.names import (
    COMPLETE,
    EVALUATE,
    INPUT_MANIFEST,
    PARTS,
    REPORT,
    REWRITE,
    SCORE,
    SESSIONS,
    SIZES,
    TRAIN,
    UNFINISHED,
)
from ossft_ray.run_folder.reader import read_counts
from ossft_ray.run_folder.rounds import RunFiles

State = Literal["not begun", "going", "quiet", "complete", "not needed"]
_QUIET_SECONDS = 120.0  # without a write
_QUIET_STEPS = 3.0  # of training, where one takes longer
_NUM_RECENT_STEPS = 20  # whose median says how long the rest will take
_NUM_READERS = 16  # footers of Parquet files that are read at the same time


@dataclass(frozen=True)
class Stage:
    """One stage of one round."""

    name: str
    state: State
    written_at: float | None = None  # Unix time of the newest file
    done: int | None = None
    total: int | None = None  # None while it is not known
    unit: str = ""
    seconds_left: float | None = None  # about; only of a stage that is going
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        return self.state in ("complete", "not needed")


def read_stages(files: RunFiles, now: float) -> list[Stage]:
    """The stages of one round in their order; `now` is a Unix time.

    Raises:
        InputError: a part was not written by ossft.
        OSError, ValueError: a file cannot be read, or is not what its name says.
    """
    return [describe(files, now) for describe in (_rewriting, _scoring, _training, _evaluating, _reporting)]


def _rewriting(files: RunFiles, now: float) -> Stage:
    folder, manifest = files.folder / REWRITE, files.rewriting
    infos = _files(folder)
    if not infos:
        return Stage("rewrite", "not needed" if _other_examples(files) else "not begun")
    if manifest is not None:
        details = {key: manifest.get(key) for key in ("origins", "dropped", "attempts", "generated_tokens", "seconds")}
        problems = manifest["problems"]
        return Stage("rewrite", "complete", _newest(infos), problems, problems, "problems", None, details)
    parts = _read_counts(folder)
    totals = Counter[str]()
    for counts in parts:
        totals.update({key: count for key, count in counts.items() if isinstance(count, int)})
    laid_out = folder.read_json(INPUT_MANIFEST) if folder.exists(INPUT_MANIFEST) else {}
    details = {
        "origins": {origin: totals[origin] for origin in ORIGINS},
        **{key: totals[key] for key in ("dropped", "attempts", "generated_tokens")},
        "parts": len(parts),
        "parts_total": laid_out.get("num_parts"),
        "under_way": _under_way(folder),
    }
    done, total, state = _num_problems(parts), laid_out.get("problems"), _state(_newest(infos), now)
    left = _rewriting_left(folder, parts, total - done, now) if state == "going" and total is not None else None
    return Stage("rewrite", state, _newest(infos), done, total, "problems", left, details)


def _under_way(folder: Folder) -> dict[str, int]:
    """Of parts that are not written yet: how many there are, attempts made, and problems that have a correct one."""
    finished = {name.removesuffix(".parquet") for name in folder.names(PARTS)}
    logs = folder / UNFINISHED
    names = [name for name in logs.names("part-*.jsonl") if name.split(".")[0] not in finished]
    with ThreadPoolExecutor(_NUM_READERS) as readers:
        ends = [line for lines in readers.map(partial(_read_log, logs), names) for line in lines if "end" in line]
    return {
        "parts": len({name.split(".")[0] for name in names}),
        "attempts": len(ends),
        "solved": len({line["end"] for line in ends if line["attempt"]["correct"]}),
    }


def _read_log(logs: Folder, name: str) -> list[Any]:
    try:
        return read_lines(logs, name)
    except FileNotFoundError:
        return []  # its part has been written meanwhile


def _rewriting_left(folder: Folder, parts: list[dict[str, Any]], num_left: int, now: float) -> float | None:
    """Seconds until the rest is done, at the pace of the parts that the newest session began and finished."""
    sessions = folder / SESSIONS
    lines = [line for name in sessions.names()[-1:] for line in read_lines(sessions, name)]
    began = max((line["began"] for line in lines if "began" in line), default=0)
    recent = [counts for counts in parts if counts["started"] >= began]
    if not (num_done := _num_problems(recent)):
        return None
    ended = max(counts["ended"] for counts in recent)
    seconds = ended - min(counts["started"] for counts in recent)
    return max(0.0, seconds / num_done * num_left - (now - ended))


def _num_problems(parts: list[dict[str, Any]]) -> int:
    return sum(counts.get(key, 0) for counts in parts for key in (*ORIGINS, "dropped"))


def _scoring(files: RunFiles, now: float) -> Stage:
    folder, infos = files.folder / SCORE, _files(files.folder / SCORE)
    if not infos:
        return Stage("score", "not begun")
    if (manifest := files.scoring) is not None:
        tokens = sum(manifest.get(name, {}).get("tokens", 0) for name in ("kept", "expert_originals"))
        done = len(folder.names(PARTS))
        return Stage("score", "complete", _newest(infos), done, done, "parts", None, {"tokens": tokens})
    parts, other = _read_counts(folder), _other_examples(files)
    total = len((Folder.at(other) if other else files.folder / REWRITE).names(PARTS))
    state, left = _state(_newest(infos), now), None
    if state == "going" and parts:
        left = sum(counts["seconds"] for counts in parts) / len(parts) * (total - len(parts))
    details = {"tokens": sum(counts["tokens"] for counts in parts)}
    return Stage("score", state, _newest(infos), len(parts), total or None, "parts", left, details)


def _training(files: RunFiles, now: float) -> Stage:
    infos, steps = _files(files.folder / TRAIN), files.steps
    if not infos:
        return Stage("train", "not begun")
    newest: dict[str, Any] = steps[-1] if steps else {}
    details = {key: newest.get(key) for key in ("loss", "cross_entropy", "tokens_per_second")}
    if (manifest := files.training) is not None:
        details |= {key: manifest.get(key) for key in ("kept_step", "seconds")}
        done = manifest["steps"]
        return Stage("train", "complete", _newest(infos), done, done, "steps", None, details)
    details["checkpoint"] = _newest_checkpoint(infos)
    done, total = newest.get("step", 0), newest.get("num_steps")
    recent = [step["seconds"] for step in steps[-_NUM_RECENT_STEPS:] if "seconds" in step]
    seconds = median(recent) if recent else 0.0
    state = _state(_newest(infos), now, max(_QUIET_SECONDS, _QUIET_STEPS * seconds))
    left = seconds * (total - done) if state == "going" and seconds and total is not None else None
    return Stage("train", state, _newest(infos), done, total, "steps", left, details)


def _newest_checkpoint(infos: list[fs.FileInfo]) -> int | None:
    """Its step; only whole ones count."""
    folders = [info.path.split("/")[-2] for info in infos if info.base_name == COMPLETE]
    return max((int(name.removeprefix("step-")) for name in folders if name.startswith("step-")), default=None)


def _evaluating(files: RunFiles, now: float) -> Stage:
    folder, infos = files.folder / EVALUATE, _files(files.folder / EVALUATE)
    if not infos:
        return Stage("evaluate", "not begun")
    paths = [info.path.removeprefix(f"{folder.path}/").split("/") for info in infos]
    parts = Counter(tuple(path[:2]) for path in paths if len(path) == 3 and path[2].startswith("part-"))
    sizes = {path[0]: (folder / path[0]).read_json(SIZES) for path in paths if path[1:] == [SIZES]}
    scores = files.scores or {}
    if not sizes:  # of a run that did not write them down
        sizes = {
            model: {name: {"problems": of_model[name]["problems"], "parts": parts[model, name]} for name in of_model}
            for model, of_model in scores.items()
        }
    others = files.experiment.get("evaluate", {}).get("models", {})
    expected = ["base", *(["trained"] if files.training else []), *others]
    usual: dict[str, Any] = next(iter(sizes.values()), {})  # of a model that is not begun
    models = {
        model: {name: {**size, "parts_done": parts[model, name]} for name, size in sizes.get(model, usual).items()}
        for model in dict.fromkeys([*expected, *sizes])
    }
    benchmarks = [benchmark for of_model in models.values() for benchmark in of_model.values()]
    done, total = sum(parts.values()), sum(benchmark["parts"] for benchmark in benchmarks)
    details = {
        "models": models,
        "averages": {model: fmean(score["avg"] for score in of_model.values()) for model, of_model in scores.items()},
    }
    is_complete = set(expected) <= set(scores) and done >= total
    state = "complete" if is_complete else _state(_newest(infos), now)
    return Stage("evaluate", state, _newest(infos), done, total or None, "parts", None, details)


def _reporting(files: RunFiles, now: float) -> Stage:
    info = files.folder.filesystem.get_file_info(f"{files.folder.path}/{REPORT}")
    if info.type != fs.FileType.File:
        return Stage("report", "not begun")
    return Stage("report", "complete", _newest([info]))


def _state(written_at: float, now: float, quiet_seconds: float = _QUIET_SECONDS) -> State:
    return "quiet" if now - written_at > quiet_seconds else "going"


def _other_examples(files: RunFiles) -> str | None:
    """The rewrite folder of another run, where this one trains on that."""
    found: str | None = files.experiment.get("train", {}).get("examples")
    return found


def _read_counts(folder: Folder) -> list[dict[str, Any]]:
    """The counts of each part so far."""
    with ThreadPoolExecutor(_NUM_READERS) as readers:
        return list(readers.map(partial(read_counts, folder), folder.names(PARTS)))


def _files(folder: Folder) -> list[fs.FileInfo]:
    """All files below the folder; none where there is no folder."""
    infos = folder.filesystem.get_file_info(fs.FileSelector(folder.path, allow_not_found=True, recursive=True))
    return [info for info in infos if info.type == fs.FileType.File]


def _newest(infos: list[fs.FileInfo]) -> float:
    """Unix time of the newest of these files."""
    return float(max(info.mtime.timestamp() for info in infos))
