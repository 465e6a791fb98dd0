"""Check that this machine can read a model: its folder is here, or it can be downloaded from the Hub."""

from pathlib import Path

from ossft_ray.common.errors import InputError, brief
from ossft_ray.config import Policy
from ossft_ray.policy.model_files import CONFIG
from ossft_ray.policy.model_location import model_digest, model_path

_HUB_SECONDS = 10


def model_refusal(policy: Policy) -> str | None:
    """Why this machine cannot read the model, and how to fix it; None if it can."""
    try:
        path = model_path(policy.model)
    except InputError as refusal:
        return f"{refusal}, and make it available on every node"
    if not Path(path).is_dir():
        return hub_refusal(path, policy.revision)
    try:
        model_digest(policy)  # reads every file
        if not any(Path(path).glob("*.safetensors")):
            return f"[policy] model: {policy.model} holds no *.safetensors here; copy the whole model to every node"
    except OSError as error:
        return f"[policy] model: {policy.model} cannot be read here: {brief(error)}; fix its permissions"
    return None


def hub_refusal(name: str, revision: str | None = None, endpoint: str | None = None) -> str | None:
    """Why this machine cannot get a model from the Hub; None if it can, or if its cache has the model."""
    from huggingface_hub import constants, errors, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    model = f"[policy] model: {name}"
    is_cached = isinstance(try_to_load_from_cache(name, CONFIG, revision=revision), str)
    if constants.is_offline_mode():
        return None if is_cached else f"{model} is not in this node's cache, and HF_HUB_OFFLINE is set; unset it"
    try:
        get_hf_file_metadata(hf_hub_url(name, CONFIG, revision=revision, endpoint=endpoint), timeout=_HUB_SECONDS)
    except errors.GatedRepoError:
        return (
            f"{model} is gated, and this node has no access; accept its licence on its page, and give HF_TOKEN to "
            "every node (or to the job's runtime_env)"
        )
    except errors.RevisionNotFoundError:
        return f"{model} has no revision '{revision}'; fix [policy] revision"
    except errors.RepositoryNotFoundError:
        return f"{model}: the Hub has no such model, or it is private and this node's HF_TOKEN has no access"
    except errors.EntryNotFoundError:
        return f"{model} holds no {CONFIG}; choose a model that transformers can load"
    except Exception as error:  # HfHubHTTPError, or an error of the Hub's HTTP client
        if not is_cached:
            return f"{model}: this node cannot reach the Hub: {brief(error)}; allow access, or copy the model here"
    return None
