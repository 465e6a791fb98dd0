"""`ossft score`: the policy gap, the log-probability of each response token under the policy that will be trained.

It scores the kept responses (the gap after rewriting) and the expert solutions of the same problems (before it), with
the forward pass of training. Losses with a reference policy read its log-probabilities here. Each part of examples
becomes a part of SCORE rows, whole or not at all, so a run that was killed resumes with the missing parts. With a
teacher, there is also a part of attempts for each; see `teacher`.
"""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow.compute as pc

from ossft_ray.common.schema import PLAIN_SCORE_SCHEMA, check_table
from ossft_ray.common.storage import Folder
from ossft_ray.common.types import ORIGINS
from ossft_ray.config import Experiment
from ossft_ray.distributed.progress import ALREADY_COMPLETE, OnProgress, announce, ignore
from ossft_ray.distributed.replanning import replanned
from ossft_ray.distributed.resource_check import with_zero_stage
from ossft_ray.distributed.session import check_output, start_ray
from ossft_ray.distributed.train_group import run_group
from ossft_ray.engines.training.deepspeed_engine import check_deepspeed_settings
from ossft_ray.method.gap import EDGES, LogprobSums, ProblemGaps, sequence_figures
from ossft_ray.run_folder.activity import recorded
from ossft_ray.run_folder.names import ATTEMPT_PARTS, EXPERT_ORIGINAL, INPUTS, KEPT, MANIFEST, PARTS, REWRITE, SCORE
from ossft_ray.run_folder.parts import read_counts
from ossft_ray.run_folder.provenance import write_config
from ossft_ray.run_folder.reader import examples_folder, list_values, scored_responses
from ossft_ray.run_folder.resolved_run import Run
from ossft_ray.run_folder.stage_folder import (
    EXAMPLES_CHANGED,
    Difference,
    begin_stage,
    changed_inputs,
    finish_stage,
)
from ossft_ray.stages.score.changes import discard_changed_parts
from ossft_ray.stages.score.teacher import check_teacher_settings, check_vocabulary, summarise_attempts, teacher_inputs
from ossft_ray.stages.score.worker import run_worker

_WORKERS = "workers"  # sub-folder for Ray Train's own state, removed at the end


@replanned
def score(
    run: Experiment | Run, on_progress: OnProgress = ignore, start_over: bool = False, verbose: bool = False
) -> dict[str, Any]:
    """Score the examples that will be trained on, and return the manifest; a complete stage is left as it is.

    If the examples have changed since, the parts that differ are scored again.

    `on_progress` gets running totals: `total` parts, `done_before`, and of this session `parts`, `tokens` and
    `seconds`.

    Raises:
        InputError: there are no complete examples, the policy cannot be used, or the folder holds scores of other
            settings.
        JobError: a worker failed; the same command resumes the run.
    """
    run = Run.of(run)
    experiment, folder = run.experiment, run.folder / SCORE
    check_output(experiment.run.output)
    source = examples_folder(experiment)
    check_deepspeed_settings(experiment.train)
    _ = run.chat  # a policy that cannot be used fails here rather than in every worker
    inputs = score_inputs(run, source)
    if run.teacher is not None:
        check_teacher_settings(run.experiment)
        check_vocabulary(run)
    changes = changed_inputs(folder, inputs)
    if not start_over and changes and not without_dropped_teacher(changes) and folder.exists(MANIFEST):
        on_progress(ALREADY_COMPLETE)
        return dict(folder.read_json(MANIFEST))
    if (manifest := begin_stage(folder, inputs, start_over, _may_change)) is not None:
        on_progress(ALREADY_COMPLETE)
        return manifest
    with recorded(folder):
        if changes := changed_inputs(folder, inputs):
            num_changed = discard_changed_parts(folder, source)
            folder.write_json(INPUTS, inputs)
            if any(change.key == REWRITE for change in changes):
                announce(on_progress, note=f"score: {EXAMPLES_CHANGED}; parts to score again: {num_changed or 'none'}")
        return _complete(run, source, inputs, on_progress, verbose)


def without_dropped_teacher(changes: list[Difference]) -> list[Difference]:
    """The changes, except a teacher that is not asked for now: its scores stand next to the others."""
    return [change for change in changes if change.key != "teacher" or change.new is not None]


def _may_change(key: str, old: Any, new: Any) -> bool:
    """Whether only some parts have to be scored again: examples have changed, or a teacher was added."""
    return key == REWRITE or (key == "teacher" and old is None)


def _complete(
    run: Run, source: Folder, inputs: dict[str, Any], on_progress: OnProgress, verbose: bool
) -> dict[str, Any]:
    """Score the missing parts, and write the manifest."""
    experiment, folder = run.experiment, run.folder / SCORE
    teacher = run.teacher
    progress = _PartProgress(folder, len(source.names(PARTS)) * (2 if teacher else 1))
    if progress.num_missing:
        announce(on_progress, starting="starting Ray")
        start_ray(experiment, verbose)
        announce(on_progress, starting="loading, then the first part")
        config = {
            "experiment": with_zero_stage(experiment),
            "teacher": teacher.experiment.policy if teacher else None,
            "source": source,
            "folder": folder,
            "verbose": verbose,
        }
        poll, written = lambda: on_progress(progress.totals()), lambda: progress.totals()["parts"]
        run_group(run_worker, config, experiment, folder, _WORKERS, poll, written)
    (folder / _WORKERS).delete()
    of_attempts = {"attempts": summarise_attempts(folder)} if teacher else {}
    manifest = finish_stage(folder, inputs, summarise_scores(folder) | of_attempts)
    write_config(experiment)
    return manifest


def score_inputs(run: Run, source: Folder) -> dict[str, Any]:
    """What scores depend on: the examples in `source`, the policy, and how it will be trained on them."""
    plain_text = {"score": {"plain_text": True}} if run.experiment.score.plain_text else {}
    teacher = {"teacher": found} if (found := teacher_inputs(run)) else {}
    return {
        "train": run.experiment.train.model_dump(mode="json", include={"max_length", "precision"}),
        **plain_text,
        **teacher,
        "model": run.policy_digest,
        "chat_template": run.experiment.policy.chat_template,
        "chat_template_kwargs": run.experiment.policy.chat_template_kwargs,
        "date": run.experiment.policy.date,
        "rewrite": source.read_json(MANIFEST)["fingerprint"],
    }


class _PartProgress:
    """The parts that were written before this session and in it, including those of attempts."""

    def __init__(self, folder: Folder, num_parts: int) -> None:
        self._folder, self._seen = folder, {*folder.names(PARTS), *folder.names(ATTEMPT_PARTS)}
        self._totals = {"total": num_parts, "done_before": len(self._seen), "parts": 0, "tokens": 0, "seconds": 0.0}
        self.num_missing = num_parts - len(self._seen)

    def totals(self) -> dict[str, Any]:
        for part in {*self._folder.names(PARTS), *self._folder.names(ATTEMPT_PARTS)} - self._seen:
            self._seen.add(part)
            counts = read_counts(self._folder, part)
            self._totals["parts"] += 1
            for name in ("tokens", "seconds"):
                self._totals[name] += counts[name]
        return dict(self._totals)


def summarise_scores(folder: Folder) -> dict[str, Any]:
    """The manifest's figures, from the parts themselves, see `method.gap`.

    `gap` is paired by problem, for each origin and all (`kept`). By group, weighted by tokens: the kept responses of
    each origin, all of them (`kept`), and the expert solutions of the same problems (`expert_originals`). `histogram`
    has each group's tokens by log p, between the `edges`. `too_long` counts the responses that were left out. With
    `[score] plain_text`, `plain_text` has the authors' figures.
    """
    groups = {name: LogprobSums() for name in (*ORIGINS, "kept", "expert_originals")}
    gaps, plain_gaps = ProblemGaps(), ProblemGaps()
    plain: dict[str, list[np.ndarray]] = {"kept": [], "expert_originals": []}
    responses: Counter[str] = Counter()
    too_long: Counter[str] = Counter()
    seconds = 0.0
    for part in folder.names(PARTS):
        table = check_table(folder.read_table(part), PLAIN_SCORE_SCHEMA, f"{folder.path}/{part}")
        is_kept = pc.equal(table["source"], KEPT)
        masks: dict[str, Any] = {origin: pc.and_(is_kept, pc.equal(table["origin"], origin)) for origin in ORIGINS}
        masks |= {"kept": is_kept, "expert_originals": pc.equal(table["source"], EXPERT_ORIGINAL)}
        for name, mask in masks.items():
            rows = table.filter(mask)
            groups[name] += LogprobSums.of(pc.list_flatten(rows["reference_logprobs"]).to_numpy())
            responses[name] += len(rows)
            if name in plain:
                plain[name] += list_values(rows["plain_logprobs"].drop_null())
        gaps.update(scored_responses(table, "reference_logprobs"))
        plain_gaps.update(scored_responses(table, "plain_logprobs"))
        counts = read_counts(folder, part)
        too_long.update(counts["too_long"])
        seconds += counts["seconds"]
    plain_figures = {name: sequence_figures(values) for name, values in plain.items()}
    return {
        "gap": {name: gaps.figures(None if name == "kept" else name) for name in (*ORIGINS, "kept")},
        **{name: sums.figures() | {"responses": responses[name]} for name, sums in groups.items()},
        **({"plain_text": plain_figures | {"gap": plain_gaps.figures()}} if plain["kept"] else {}),
        "too_long": {"kept": too_long[KEPT], "expert_originals": too_long[EXPERT_ORIGINAL]},
        "histogram": {"edges": list(EDGES), **{name: sums.histogram.tolist() for name, sums in groups.items()}},
        "seconds": round(seconds, 3),
    }
