"""What does the Hub, or this machine's copy of it, say of a model: which commit is it now, and of which files?"""

import re
from pathlib import Path

from ossft_ray.policy.model_files import check_weights

_COMMIT = re.compile(r"[0-9a-f]{40}")


def resolve_commit(model: str, revision: str | None) -> str | None:
    """The commit that a branch or tag of a Hub model is at; None where it cannot be told.

    Without a network, what this machine last fetched under the name counts.
    """
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import hf_hub_download

    try:  # a commit's files lie in a folder of its name
        commit = Path(hf_hub_download(model, "config.json", revision=revision)).parent.name
    except (OSError, ValueError):  # loading it will say why
        return None
    return commit if _COMMIT.fullmatch(commit) else None


def check_hub_weights(model: str, commit: str) -> None:
    """Refuse a Hub model whose weights are pickles only.

    Raises:
        InputError: see `check_weights`.
    """
    check_weights(_files(model, commit), model)


def _files(model: str, commit: str) -> list[str]:
    """The names of its files; without a network, of those that were fetched."""
    from huggingface_hub import HfApi, hf_hub_download

    try:
        return list(HfApi().list_repo_files(model, revision=commit))
    except (OSError, ValueError):
        snapshot = Path(hf_hub_download(model, "config.json", revision=commit, local_files_only=True)).parent
        return [path.name for path in snapshot.iterdir()]
