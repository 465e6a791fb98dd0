"""What scores depend on."""

from typing import Any

from ossft_ray.common.storage import Folder
from ossft_ray.config import Experiment
from ossft_ray.policy.location import model_digest
from ossft_ray.run_folder.names import MANIFEST


def score_inputs(experiment: Experiment, source: Folder) -> dict[str, Any]:
    """What scores depend on: the examples in `source`, the policy, and how it will be trained on them."""
    return {
        "train": experiment.train.model_dump(mode="json", include={"max_length", "precision"}),
        "model": model_digest(experiment.policy),
        "chat_template": experiment.policy.chat_template,
        "rewrite": source.read_json(MANIFEST)["fingerprint"],
    }
