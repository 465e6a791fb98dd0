"""The state of each stage, from a run's folder alone: not started, running, stopped, failed, complete or outdated.

A complete stage is outdated when what it was made from has changed since: the problems, the examples, the scores or the
trained model. Recorded fingerprints show this.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pyarrow import fs
from pydantic import ValidationError

from ossft_ray.common.errors import InputError
from ossft_ray.common.storage import Folder
from ossft_ray.common.uris import is_uri
from ossft_ray.config import Data
from ossft_ray.data.problems import source_digests
from ossft_ray.data.records import find_files
from ossft_ray.policy.model_location import folder_digest
from ossft_ray.run_folder import names
from ossft_ray.run_folder.activity import read_activity
from ossft_ray.run_folder.reader import RunFolder, read_json
from ossft_ray.run_folder.stage_folder import EXAMPLES_CHANGED, MODEL_CHANGED, SCORES_CHANGED, fingerprint

State = Literal["not started", "running", "stopped", "failed", "complete", "outdated", "not needed"]
REPORT_STAGE = "report"


@dataclass(frozen=True)
class StageState:
    """How far a stage of one round is."""

    state: State
    reason: str = ""  # why it stopped, failed or is outdated; empty where nothing is known or needs saying
    last_activity: float | None = None  # Unix time of its newest file or heartbeat; None before it started


def stage_states(run: RunFolder, now: float | None = None, previous: RunFolder | None = None) -> dict[str, StageState]:
    """The states of `rewrite`, `score`, `train`, `evaluate` and `report` of one round, by name and in this order.

    `previous` is the round before, whose trained model this one starts from.

    Raises:
        InputError: a file of the run cannot be read.
    """
    now = time.time() if now is None else now
    states: dict[str, StageState] = {}
    for name in names.STAGES:
        states[name] = _stage_state(run, name, states, now)
    rewrite = states[names.REWRITE]
    if previous is not None and rewrite.state == "complete" and (reason := _policy_change(run, previous)):
        states = {
            name: replace(state, state="outdated", reason=reason if name == names.REWRITE else "rewrite is outdated")
            if state.state == "complete"
            else state
            for name, state in states.items()
        }
    return states | {REPORT_STAGE: _report_state(run)}


def _stage_state(run: RunFolder, name: str, before: dict[str, StageState], now: float) -> StageState:
    if not run.files[name]:
        is_needed = {
            names.REWRITE: not run.examples_elsewhere,
            names.EVALUATE: run.experiment.get("evaluate", {}).get("benchmarks") != [],
        }
        return StageState("not started" if is_needed.get(name, True) else "not needed")
    newest = max(file.mtime.timestamp() for file in run.files[name])
    activity = read_activity(run.folder / name, newest, now)
    is_interrupted = activity.is_recorded and activity.outcome != "complete"
    if name != names.EVALUATE:  # evaluation's results stay in place while it samples again
        is_interrupted = is_interrupted and activity.outcome == "running"
    if is_interrupted or not _HAS_RESULT[name](run):
        state: State = "stopped" if activity.outcome == "complete" else activity.outcome
        return StageState(state, activity.reason, activity.last_sign)
    reason = _CHANGE[name](run, before)
    return StageState("outdated" if reason else "complete", reason, newest)


def _policy_change(run: RunFolder, previous: RunFolder) -> str:
    """What has changed about the model that a later round starts from."""
    trained = stage_states(previous)[names.TRAIN].state
    if trained != "complete":
        return f"the previous round's model is {trained if trained == 'outdated' else 'being trained again'}"
    recorded = _inputs(run, names.REWRITE).get("policy_files")
    model = previous.folder / names.TRAIN / names.MODEL
    return MODEL_CHANGED if recorded is not None and folder_digest(model) != recorded else ""


def _report_state(run: RunFolder) -> StageState:
    page = run.folder.filesystem.get_file_info(f"{run.folder.path}/{names.REPORT}")
    if page.type != fs.FileType.File:
        return StageState("not started")
    written_at = page.mtime.timestamp()
    results = {f"{run.folder.path}/{name}/{names.MANIFEST}": name for name in names.STAGES}
    results[f"{run.folder.path}/{names.EVALUATE}/{names.ACCURACIES}"] = names.EVALUATE
    newer = [
        results[file.path]
        for files in run.files.values()
        for file in files
        if file.path in results and file.mtime.timestamp() > written_at
    ]
    return StageState("outdated" if newer else "complete", f"{newer[0]} is newer" if newer else "", written_at)


def _is_evaluated(run: RunFolder) -> bool:
    parts = [part for model in run.accuracies for part in run.evaluation_parts.get(model, {}).values()]
    return bool(run.accuracies) and all(part["parts_done"] >= part["parts"] for part in parts)


def _rewrite_change(run: RunFolder, before: dict[str, StageState]) -> str:
    """What has changed about the problems, as far as files on this machine tell."""
    recorded = _inputs(run, names.REWRITE).get("data", {}).get("sources")
    try:
        data = Data.model_validate(run.experiment.get("data"))
        paths = [data.path] if isinstance(data.path, str) else data.path
        if recorded is None or any(map(is_uri, paths)):
            return ""
        files = [file for path in paths for file in find_files(path) if Path(file).is_file()]
        read_at = run.folder.filesystem.get_file_info(f"{run.rewrite.path}/{names.INPUT_MANIFEST}").mtime_ns or 0
        if not any(Path(file).stat().st_mtime_ns > read_at for file in files):
            return ""
        return f"{', '.join(paths)} has changed since" if source_digests(data) != recorded else ""
    except (ValidationError, InputError, OSError):
        return ""  # the files are not on this machine, or the command was given in another folder


def _score_change(run: RunFolder, before: dict[str, StageState]) -> str:
    return _examples_change(run, names.SCORE, before)


def _train_change(run: RunFolder, before: dict[str, StageState]) -> str:
    recorded = _inputs(run, names.TRAIN).get("score")
    if recorded is not None and recorded != _fingerprint(run.folder / names.SCORE):
        return SCORES_CHANGED
    return _examples_change(run, names.TRAIN, before)


def _evaluate_change(run: RunFolder, before: dict[str, StageState]) -> str:
    if names.TRAINED not in run.accuracies:
        return "the trained model is not evaluated yet" if run.train_manifest else ""
    if missing := [model for model in run.evaluated_models if model not in run.accuracies]:
        return f"{missing[0]} is not evaluated yet"
    if before[names.TRAIN].state != "complete":
        return "the model is outdated" if run.train_manifest else "the model is being trained again"
    recorded = _inputs(run, f"{names.EVALUATE}/{names.TRAINED}").get("policy_files")
    evaluated_at = run.folder.filesystem.get_file_info(f"{run.folder.path}/{names.EVALUATE}/{names.ACCURACIES}").mtime
    trained_at = run.folder.filesystem.get_file_info(f"{run.folder.path}/{names.TRAIN}/{names.MANIFEST}").mtime
    if recorded is None or trained_at <= evaluated_at:
        return ""
    model = run.folder / names.TRAIN / names.MODEL
    return MODEL_CHANGED if folder_digest(model) != recorded else ""


def _examples_change(run: RunFolder, stage: str, before: dict[str, StageState]) -> str:
    recorded = _inputs(run, stage).get("rewrite")
    source = Folder.at(run.examples_elsewhere) if run.examples_elsewhere else run.rewrite
    if recorded is not None and recorded != _fingerprint(source):
        return EXAMPLES_CHANGED
    return "the examples are outdated" if before[names.REWRITE].state == "outdated" else ""


def _fingerprint(folder: Folder) -> str | None:
    """The fingerprint of the inputs of a stage, complete or not; None if its folder is gone."""
    if folder.exists(names.INPUTS):
        return fingerprint(read_json(folder, names.INPUTS))
    found: str | None = read_json(folder, names.MANIFEST).get("fingerprint")
    return found


def _inputs(run: RunFolder, stage: str) -> dict[str, Any]:
    return read_json(run.folder / stage, names.INPUTS)


_HAS_RESULT = {
    names.REWRITE: lambda run: bool(run.rewrite_manifest),
    names.SCORE: lambda run: bool(run.score_manifest),
    names.TRAIN: lambda run: bool(run.train_manifest),
    names.EVALUATE: _is_evaluated,
}
_CHANGE = {
    names.REWRITE: _rewrite_change,
    names.SCORE: _score_change,
    names.TRAIN: _train_change,
    names.EVALUATE: _evaluate_change,
}
