"""Log-probabilities of the kept responses under the policy before training, from the run's `score/` folder."""

from ossft_ray.common.errors import InputError
from ossft_ray.common.schema import SCORE_SCHEMA, check_table
from ossft_ray.common.storage import Folder
from ossft_ray.run_folder.names import KEPT, MANIFEST, PARTS, REWRITE, SCORE
from ossft_ray.run_folder.resolved_run import Run
from ossft_ray.run_folder.stage_folder import changed_inputs
from ossft_ray.stages.score.stage import score_inputs

_FROM_SCORES = ("iw_sft", "asft_k3")  # psft refreshes its reference while it trains


def read_reference_logprobs(scores: Folder) -> dict[tuple[str, tuple[int, ...]], list[float]]:
    """log q of each token, by problem and response: a problem may have several kept responses."""
    found = {}
    for name in scores.names(PARTS):
        for row in check_table(scores.read_table(name), SCORE_SCHEMA, f"{scores.path}/{name}").to_pylist():
            if row["source"] == KEPT:
                found[row["problem_id"], tuple(row["token_ids"])] = row["reference_logprobs"]
    return found


def score_folder(run: Run, source: Folder) -> Folder | None:
    """The complete scores of the examples in `source`; None for a loss that needs none.

    Raises:
        InputError: there are none yet, or they are of other examples or another policy.
    """
    loss = run.experiment.train.loss
    if loss not in _FROM_SCORES:
        return None
    folder = run.folder / SCORE
    if not folder.exists(MANIFEST):
        raise InputError(
            f'{folder.path}: no complete scores (no {MANIFEST}), which train.loss = "{loss}" needs for its reference '
            "policy; run `ossft score` first"
        )
    if changed := changed_inputs(folder, score_inputs(run, source)):
        again = "`ossft score`" if all(change.key == REWRITE for change in changed) else "`ossft score --start-over`"
        raise InputError(
            f"{folder.path} was made with different settings: {'; '.join(map(str, changed))}. Run {again} first."
        )
    return folder
