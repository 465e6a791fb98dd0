"""The models of an evaluation: the policy, the model trained from it, and those of `[evaluate] models`."""

from ossft_ray.common.uris import absolute, join
from ossft_ray.config import Experiment, Policy
from ossft_ray.run_folder.names import BASE, MANIFEST, MODEL, TRAIN, TRAINED
from ossft_ray.run_folder.run import Run


def evaluated_models(run: Run) -> dict[str, Run]:
    """All models by name, base first, then trained if it is complete. Each is a run with it as `[policy]`."""
    models = {BASE: run}
    if (run.folder / TRAIN).exists(MANIFEST):
        models[TRAINED] = Run(run.experiment.model_copy(update={"policy": trained_policy(run.experiment)}))
    return models | {name: other.pinned() for name, other in run.other_models.items()}


def trained_policy(experiment: Experiment) -> Policy:
    """`[policy]` of the run's trained model: its chat template and the merged adapter are in its folder."""
    model = absolute(join(experiment.run.output, TRAIN, MODEL))
    return experiment.policy.model_copy(update={"model": model, "revision": None, "chat_template": None, "lora": None})
