"""Can this machine read a model: is its folder here, or may it be had from the Hub?"""

from pathlib import Path

from ossft_ray.common.errors import InputError
from ossft_ray.config import Policy
from ossft_ray.policy.chat import model_digest, model_path

_CONFIG = "config.json"


def model_refusal(policy: Policy) -> str | None:
    """Why the model cannot be read here, in one line with how to mend it; None if it can."""
    try:
        path = model_path(policy.model)
    except InputError as refusal:
        return f"{refusal} that every node has"
    if not Path(path).is_dir():
        return hub_refusal(path, policy.revision)
    try:
        model_digest(policy)
        if not any(Path(path).glob("*.safetensors")) and not any(Path(path).glob("*.bin")):
            return f"[policy] model: {policy.model} holds no weights here; copy the whole model to every node"
    except OSError as error:
        return f"[policy] model: {policy.model} cannot be read here: {error.strerror or error}; mend its permissions"
    return None


def hub_refusal(name: str, revision: str | None = None, endpoint: str | None = None) -> str | None:
    """Why a model of the Hub cannot be had from here; None if it can, or lies in the cache of this machine."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    at = f"[policy] model: {name}"
    is_cached = isinstance(try_to_load_from_cache(name, _CONFIG, revision=revision), str)
    if constants.is_offline_mode():
        return None if is_cached else f"{at} is not in this node's cache, and HF_HUB_OFFLINE is set; unset it"
    url = hf_hub_url(name, _CONFIG, revision=revision, endpoint=endpoint)
    try:
        get_hf_file_metadata(url, timeout=10)
    except GatedRepoError:
        return (
            f"{at} is gated, and this node has no access; accept its licence on its page, and give HF_TOKEN to every "
            "node (or to the job's runtime_env)"
        )
    except RevisionNotFoundError:
        return f"{at} has no revision '{revision}'; mend [policy] revision"
    except RepositoryNotFoundError:
        return f"{at}: the Hub has no such model, or it is private and this node's HF_TOKEN has no access"
    except EntryNotFoundError:
        return f"{at} holds no {_CONFIG}; choose a model that transformers can load"
    except Exception as error:  # HfHubHTTPError, or the HTTP client's own, which is not ours to name
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        return _unreached(at, reason, is_cached)
    return None


def _unreached(at: str, reason: str, is_cached: bool) -> str | None:
    """A model that was fetched before serves without the Hub."""
    return (
        None if is_cached else f"{at}: the Hub cannot be reached from here: {reason}; open the way, or copy the model"
    )
