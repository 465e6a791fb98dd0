"""`ossft status`: how far a run is, from its folder alone, without Ray."""

import shlex
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import pairwise
from statistics import fmean, median
from typing import Any

from ossft_ray.common.storage import Folder
from ossft_ray.common.types import ORIGINS
from ossft_ray.run_folder import names
from ossft_ray.run_folder.activity import newest_command
from ossft_ray.run_folder.line_log import read_lines
from ossft_ray.run_folder.parts import counts_of_parts
from ossft_ray.run_folder.reader import RunFolder, open_rounds, storage_errors
from ossft_ray.run_folder.sessions import newest_session_start
from ossft_ray.run_folder.stage_states import State, stage_states

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
    seconds_left: float | None = None  # an estimate; only while the stage is running
    details: dict[str, Any] = field(default_factory=dict)
    reason: str = ""  # why it stopped, failed or is outdated
    last_activity: float | None = None  # Unix time of the newest file or heartbeat


@dataclass(frozen=True)
class Status:
    """A run's rounds, each with its stages in order."""

    run: str
    now: float  # Unix time at which this holds
    rounds: list[list[StageStatus]]
    next: str | None  # the command that resumes the run; None if all is done, or something is running

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
        found = [_stages(each, now, before) for before, each in zip([None, *rounds], rounds, strict=False)]
        command = newest_command(each.folder / name for each in rounds for name in names.STAGES)
    num_rounds = max(len(rounds), rounds[0].experiment.get("loop", {}).get("rounds", 1))
    following = next_command(found, num_rounds)
    return Status(run, now, found, following and _typed(following, command))


def _typed(following: str, command: str) -> str:
    """The next command, with the last one's options; `ossft demo` and `ossft run` resume all stages."""
    words = shlex.split(command)
    if words[1:2] == ["demo"]:
        return shlex.join(word for word in words if word != "--start-over")
    if words[1:2] == ["run"]:
        following = "ossft run"
    options = [word for pair in pairwise(words) for word in pair if pair[0] in ("--config", "--set")]
    options += [word for word in words if word.startswith(("--config=", "--set="))]
    return " ".join([following, *map(shlex.quote, options)])


def next_command(rounds: list[list[StageStatus]], num_rounds: int) -> str | None:
    """The command that resumes a run of `num_rounds` rounds; None if nothing is left to do, or something is running."""
    stages = [stage for stages in rounds for stage in stages]
    if any(stage.state == "running" for stage in stages):
        return None
    num_over = max((number for number, stage in enumerate(stages, start=1) if stage.state == "complete"), default=0)
    # If a later stage is complete, one that never started was not needed, such as scoring for a loss without reference.
    pending = [stage for stage in stages[:num_over] if stage.state in ("stopped", "failed", "outdated")]
    pending += [stage for stage in stages[num_over:] if stage.state != "not needed"]
    if not pending and len(rounds) == num_rounds:
        return None
    if not pending or num_rounds > 1:
        return "ossft run"
    # Training is too expensive to be discarded unasked.
    is_outdated_training = pending[0].name == names.TRAIN and pending[0].state == "outdated"
    return f"ossft {pending[0].name}" + (" --start-over" if is_outdated_training else "")


def _stages(run: RunFolder, now: float, previous: RunFolder | None) -> list[StageStatus]:
    found = []
    for name, state in stage_states(run, now, previous).items():
        measured = _STATUS_OF[name](run, now) if run.files.get(name) else StageStatus(name, state.state)
        left = measured.seconds_left if state.state == "running" else None
        found.append(
            replace(
                measured,
                state=state.state,
                reason=state.reason,
                last_activity=state.last_activity,
                seconds_left=left,
            )
        )
    return found


def _rewrite(run: RunFolder, now: float) -> StageStatus:
    done, total = run.progress()
    details = {key: run.rewrite_counts.get(key) for key in ("origins", "dropped", "attempts", "generated_tokens")}
    if run.rewrite_manifest:
        details["seconds"] = run.rewrite_manifest.get("seconds")
        return StageStatus(names.REWRITE, "complete", done, total, "problems", details=details)
    details |= {"parts": len(run.part_counts), "parts_total": run.input_manifest.get("num_parts")}
    details["under_way"] = _under_way(run.rewrite)
    left = _rewriting_left(run, total - done, now) if total is not None else None
    return StageStatus(names.REWRITE, "running", done, total, "problems", left, details)


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


def _score(run: RunFolder, now: float) -> StageStatus:
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
    return StageStatus(names.SCORE, "running", len(parts), total or None, "parts", left, details)


def _train(run: RunFolder, now: float) -> StageStatus:
    newest = run.metrics[-1] if run.metrics else {}
    details = {key: newest.get(key) for key in ("loss", "cross_entropy", "tokens_per_second")}
    if manifest := run.train_manifest:
        details |= {key: manifest.get(key) for key in ("kept_step", "seconds")}
        steps = manifest["steps"]
        return StageStatus(names.TRAIN, "complete", steps, steps, "steps", details=details)
    # A checkpoint counts once it is marked as complete.
    folders = [file.path.split("/")[-2] for file in run.files[names.TRAIN] if file.base_name == names.COMPLETE]
    checkpoints = [int(name.removeprefix("step-")) for name in folders if name.startswith("step-")]
    details["checkpoint"] = max(checkpoints, default=None)
    done, total = newest.get("step", 0), newest.get("num_steps")
    seconds = _step_seconds(run)
    left = seconds * (total - done) if seconds and total is not None else None
    return StageStatus(names.TRAIN, "running", done, total, "steps", left, details)


def _step_seconds(run: RunFolder) -> float:
    """How long a training step takes: the median of the newest ones; 0 before the first."""
    return median([step["seconds"] for step in run.metrics[-_NUM_RECENT_STEPS:] if "seconds" in step] or [0.0])


def _evaluate(run: RunFolder, now: float) -> StageStatus:
    models = run.evaluation_parts
    benchmarks = [benchmark for by_name in models.values() for benchmark in by_name.values()]
    done, total = (sum(benchmark[key] for benchmark in benchmarks) for key in ("parts_done", "parts"))
    averages = {model: fmean(result["avg"] for result in results.values()) for model, results in run.accuracies.items()}
    details = {"models": models, "averages": averages}
    return StageStatus(names.EVALUATE, "running", done, total or None, "parts", details=details)


_STATUS_OF = {names.REWRITE: _rewrite, names.SCORE: _score, names.TRAIN: _train, names.EVALUATE: _evaluate}
