"""The commit of a Hub model that a run uses: the one its revision meant when the run began."""

from pathlib import Path

from ossft_ray.common.storage import Folder
from ossft_ray.config import Experiment
from ossft_ray.policy.chat import model_path
from ossft_ray.policy.hub_models import check_hub_weights, resolve_commit
from ossft_ray.run_folder.names import CONFIG


def pin_revision(experiment: Experiment, refresh: bool = False) -> Experiment:
    """Replace `[policy] revision` by its commit, if the model is one of the Hub.

    The commit that the run's `config.json` records is used even if the branch has moved since; `refresh` asks the Hub
    again.

    Raises:
        InputError: the model's weights are pickles.
    """
    policy = experiment.policy
    if Path(model_path(policy.model)).is_dir():
        return experiment
    folder, key = Folder.at(experiment.run.output), f"{policy.model}@{policy.revision or 'main'}"
    config = folder.read_json(CONFIG) if folder.exists(CONFIG) else {}
    revisions = config.get("revisions", {})  # commits by the MODEL@REVISION that experiments name
    commit = None if refresh else revisions.get(key)
    if commit is None:
        commit = resolve_commit(policy.model, policy.revision)
        if commit is None:
            return experiment
        check_hub_weights(policy.model, commit)
        folder.write_json(CONFIG, config | {"revisions": revisions | {key: commit}})
    return experiment.model_copy(update={"policy": policy.model_copy(update={"revision": commit})})
