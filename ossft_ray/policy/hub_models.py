"""The commit and the files of a model on the Hugging Face Hub, or in this machine's cache of it."""

import os
import re
import socket
from pathlib import Path

from ossft_ray.common.errors import InputError, brief
from ossft_ray.policy.model_files import CONFIG, check_weights

_COMMIT = re.compile(r"[0-9a-f]{40}")


def resolve_commit(model: str, revision: str | None) -> str | None:
    """The commit that a branch or tag of a Hub model points to; None where neither Hub nor cache has the model.

    Without a network, it is the commit that this machine downloaded last under that name.
    """
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import hf_hub_download

    try:  # the cache keeps a commit's files in a folder named after it
        commit = Path(hf_hub_download(model, CONFIG, revision=revision)).parent.name
    except (OSError, ValueError):  # loading the model reports the reason
        return None
    return commit if _COMMIT.fullmatch(commit) else None


def check_hub_weights(model: str, commit: str) -> None:
    """Refuse a Hub model whose weights are pickles only.

    Raises:
        InputError: see `check_weights`.
    """
    from huggingface_hub import HfApi, hf_hub_download

    try:
        names = HfApi().list_repo_files(model, revision=commit)
    except (OSError, ValueError):  # without a network, the files in the cache count
        names = os.listdir(Path(hf_hub_download(model, CONFIG, revision=commit, local_files_only=True)).parent)
    check_weights(names, model)


def fetch_hub_weights(model: str, revision: str | None, cache: str | None = None) -> None:
    """Download the safetensors of a Hub model into `cache`, unless they are there; by default into the Hub's own cache.

    Processes of a node that ask for the same file at the same time wait for the first one.

    Raises:
        InputError: neither the Hub nor the cache has the model.
    """
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(
            model, revision=revision, cache_dir=cache, allow_patterns="*.safetensors", ignore_patterns="*/*"
        )
    except (OSError, ValueError) as error:
        raise InputError(
            f"[policy] model: the weights of {model} cannot be downloaded to {socket.gethostname()}: {brief(error)}; "
            "allow access to the Hub, or copy the model to every node"
        ) from error
