"""Which commit of a Hub model does a run use? The one that its name meant when the run began, noted in config.json."""

from pathlib import Path

from ossft_ray.common.storage import Folder
from ossft_ray.config import Experiment, Policy
from ossft_ray.policy.hub_models import check_hub_weights, resolve_commit
from ossft_ray.policy.location import model_path
from ossft_ray.run_folder.provenance import note_revision, read_revisions


def pin(experiment: Experiment, anew: bool = False) -> Experiment:
    """The experiment with the commit in place of `[policy] revision`, where the model is one of the Hub.

    What the run's `config.json` notes is kept, although a branch may have moved on; `anew` asks again.

    Raises:
        InputError: the model's weights are pickles.
    """
    return experiment.model_copy(update={"policy": pin_policy(experiment.policy, experiment.run.output, anew)})


def pin_policy(policy: Policy, output: str, anew: bool = False) -> Policy:
    """The same for one policy of the run in `output`."""
    if Path(model_path(policy.model)).is_dir():
        return policy
    folder, key = Folder.at(output), f"{policy.model}@{policy.revision or 'main'}"
    commit = None if anew else read_revisions(folder).get(key)
    if commit is None:
        commit = resolve_commit(policy.model, policy.revision)
        if commit is None:
            return policy
        check_hub_weights(policy.model, commit)
        note_revision(folder, key, commit)
    return policy.model_copy(update={"revision": commit})
