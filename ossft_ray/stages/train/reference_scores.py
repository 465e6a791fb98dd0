"""The scores that training reads from the run's `score/` folder: of kept responses, or of attempts under a teacher."""

from typing import NamedTuple

from ossft_ray.common.errors import InputError
from ossft_ray.common.schema import ATTEMPT_SCORE_SCHEMA, SCORE_SCHEMA, check_table
from ossft_ray.common.storage import Folder
from ossft_ray.engines.training.batches import TokenizedExample
from ossft_ray.run_folder.names import ATTEMPT_PARTS, KEPT, MANIFEST, PARTS, REWRITE, SCORE
from ossft_ray.run_folder.resolved_run import Run
from ossft_ray.run_folder.stage_folder import changed_inputs
from ossft_ray.stages.score.stage import score_inputs, without_dropped_teacher
from ossft_ray.stages.train.selection import FROM_SCORES

# Not psft, which refreshes its reference during training.
LOSSES_FROM_SCORES = ("iw_sft", "dft_k3", "prift_prob", "prift_mass", "opd")
_SCORES = ("reference_logprobs", "reference_ranks", "reference_masses")

CORRECT, WRONG = "correct", "wrong"  # sources of attempts, in the metrics


class ReferenceScores(NamedTuple):
    """log q of each token of a response, its rank and its mass; older scores lack the last two."""

    logprobs: list[float]
    ranks: list[int] | None
    masses: list[float] | None


def read_reference_scores(scores: Folder) -> dict[tuple[str, tuple[int, ...]], ReferenceScores]:
    """The scores by problem and response: a problem may have several kept responses."""
    found = {}
    for name in scores.names(PARTS):
        for row in check_table(scores.read_table(name), SCORE_SCHEMA, f"{scores.path}/{name}").to_pylist():
            if row["source"] == KEPT:
                scored = ReferenceScores(*(row[name] for name in _SCORES))
                found[row["problem_id"], tuple(row["token_ids"])] = scored
    return found


def read_scored_attempts(scores: Folder) -> list[TokenizedExample]:
    """The policy's attempts with their log-probabilities under the policy and the teacher; `correct` or `wrong`."""
    found = []
    for name in scores.names(ATTEMPT_PARTS):
        rows = check_table(scores.read_table(name), ATTEMPT_SCORE_SCHEMA, f"{scores.path}/{name}").to_pylist()
        found += [
            TokenizedExample(
                row["problem_id"],
                row["prompt_token_ids"],
                row["token_ids"],
                CORRECT if row["correct"] else WRONG,
                row["reference_logprobs"],
                teacher_logprobs=row["teacher_logprobs"],
            )
            for row in rows
        ]
    return found


def score_folder(run: Run, source: Folder) -> Folder | None:
    """The complete scores of the examples in `source`; None if neither `train.loss` nor `train.select` needs them.

    Raises:
        InputError: there are none yet, or they are of other examples or another policy.
    """
    loss, select = run.experiment.train.loss, run.experiment.train.select
    if loss not in LOSSES_FROM_SCORES and select not in FROM_SCORES:
        return None
    folder = run.folder / SCORE
    if not folder.exists(MANIFEST):
        is_for_loss = loss in LOSSES_FROM_SCORES
        need = f'train.loss = "{loss}"' if is_for_loss else f'train.select = "{select}"'
        raise InputError(
            f"{folder.path}: no complete scores (no {MANIFEST}), which {need} needs; run `ossft score` first"
        )
    # `ossft score --teacher` may have added a teacher that this command is not given
    if changed := without_dropped_teacher(changed_inputs(folder, score_inputs(run, source))):
        again = "`ossft score`" if all(change.key == REWRITE for change in changed) else "`ossft score --start-over`"
        raise InputError(
            f"{folder.path} was made with different settings: {'; '.join(map(str, changed))}. Run {again} first."
        )
    if loss == "opd" and "attempts" not in folder.read_json(MANIFEST):
        raise InputError(
            f'{folder.path}: holds no attempts under a teacher, which train.loss = "opd" trains on; '
            "run `ossft score --teacher guided` first"
        )
    return folder
