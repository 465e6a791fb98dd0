"""The places that a model comes from: the playground, a folder, an object store or the Hugging Face Hub."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ossft_ray.common import playground_paths
from ossft_ray.common.errors import InputError
from ossft_ray.common.storage import Folder, digest_files
from ossft_ray.common.uris import is_uri
from ossft_ray.config import Policy
from ossft_ray.policy.hub_models import fetch_hub_weights
from ossft_ray.policy.model_files import CONFIG, download_model

_DIGESTED = (".json", ".safetensors", ".jinja")
_SAFETENSORS = ("auto", "safetensors")  # vLLM's load formats that read them from a disk


def model_path(name: str, weights: bool = False) -> str:
    """The folder or Hub id that transformers and vLLM load for `[policy] model`.

    A folder in an object store is downloaded, its weights only if `weights=True`.

    Raises:
        InputError: `name` is a path or a URI, and holds no model.
    """
    if name == playground_paths.POLICY:
        return str(playground_paths.POLICY_FOLDER)
    if is_uri(name):
        local = Folder.at(name).local_path
        return model_path(str(local)) if local is not None else download_model(name, weights)
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / CONFIG).is_file():
            raise InputError(f"[policy] model: {name} holds no {CONFIG}; give a Hugging Face model folder")
        return str(path)
    if path.exists() or path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise InputError(f"[policy] model: no model folder at {name}; give a folder, a Hub id, or 'playground'")
    return name


@contextmanager
def naming_model(key: str, engine: str = "[policy.engine]") -> Iterator[None]:
    """Make errors about `[policy] model` and its engine name the keys that set this model instead."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace("[policy] model", key).replace("[policy.engine]", engine)) from error


def fetch_weights(policy: Policy) -> None:
    """Bring the weights onto this machine, so that the start of an engine takes no longer than loading them.

    Raises:
        InputError: the weights cannot be downloaded.
    """
    path = model_path(policy.model, weights=True)
    if not Path(path).is_dir() and policy.engine.get("load_format", "auto") in _SAFETENSORS:
        fetch_hub_weights(path, policy.revision, policy.engine.get("download_dir"))


def model_digest(policy: Policy) -> str:
    """A digest of the model's weights and tokenizer for fingerprints; for a Hub model its id and revision."""
    path = model_path(policy.model)
    lora = f" with {folder_digest(Folder.at(policy.lora))}" if policy.lora else ""
    if not Path(path).is_dir():
        return f"{policy.model}@{policy.revision or 'main'}{lora}"
    return folder_digest(Folder.at(policy.model if is_uri(policy.model) else path)) + lora


def folder_digest(folder: Folder) -> str:
    """A digest of the weights and the tokenizer in a model's folder."""
    return digest_files(folder, [name for name in folder.names() if name.endswith(_DIGESTED)])
