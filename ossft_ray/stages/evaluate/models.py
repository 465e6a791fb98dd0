"""The models of an evaluation: the policy, the model trained from it, and those of `[evaluate] models`."""

from ossft_ray.common.storage import Folder
from ossft_ray.common.uris import absolute, join
from ossft_ray.config import Experiment, Policy
from ossft_ray.run_folder.names import BASE, MANIFEST, MODEL, TRAIN, TRAINED


def evaluated_models(experiment: Experiment) -> dict[str, Experiment]:
    """All models by name, base first, then trained if it is complete. Each is an experiment with it as `[policy]`."""
    found = {BASE: experiment}
    if (Folder.at(experiment.run.output) / TRAIN).exists(MANIFEST):
        found[TRAINED] = experiment.model_copy(update={"policy": trained_policy(experiment)})
    return found | other_models(experiment)


def other_models(experiment: Experiment) -> dict[str, Experiment]:
    """The models of `[evaluate] models`. The rest of `[policy]`, such as a chat template, is as for the base model."""
    return {
        name: experiment.model_copy(
            update={"policy": experiment.policy.model_copy(update={"model": model, "revision": None, "lora": None})}
        )
        for name, model in experiment.evaluate.models.items()
    }


def trained_policy(experiment: Experiment) -> Policy:
    """`[policy]` of the run's trained model: its chat template and the merged adapter are in its folder."""
    model = absolute(join(experiment.run.output, TRAIN, MODEL))
    return experiment.policy.model_copy(update={"model": model, "revision": None, "chat_template": None, "lora": None})
