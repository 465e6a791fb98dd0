"""The files of a model: safetensors only; each node downloads those of an object store once.

Weights in other formats are pickles, and loading a pickle runs any code that its author put into it.
"""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from pyarrow import fs

from ossft_ray.common.errors import InputError, brief
from ossft_ray.common.storage import Folder, digest_files
from ossft_ray.common.uris import is_uri

CONFIG = "config.json"
_WEIGHTS = ".safetensors"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_DEFAULT_CACHE = "~/.cache/ossft_ray"


def check_weights(names: list[str], model: str, key: str = "[policy] model") -> None:
    """Refuse a model whose weights are pickles only.

    Raises:
        InputError: there are pickles and no safetensors among the files.
    """
    pickles = [name for name in names if name.endswith(_PICKLES)]
    if pickles and not any(name.endswith(_WEIGHTS) for name in names):
        raise InputError(
            f"{key}: {model} holds its weights only as pickles ({pickles[0]}), and loading them may run any code; "
            "load the model where you trust its author, and save it as safetensors with save_pretrained"
        )


def check_complete(folder: Path, model: str, key: str = "[policy] model") -> None:
    """Refuse weights with a part missing, as after an interrupted download. Reads only the files' headers.

    Raises:
        InputError: a file is shorter than its header says, or has no such header.
    """
    from safetensors import SafetensorError, safe_open

    for file in sorted(folder.glob(f"*{_WEIGHTS}")):
        try:
            with safe_open(file, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"{key}: {model}: {file.name} is not a complete safetensors file ({brief(error)}); copy it again"
            ) from error


def download_model(uri: str, weights: bool) -> str:
    """Download a model folder from an object store, unless this machine has it already; returns the local folder.

    The local folder is named after a digest of the files, in `$OSSFT_CACHE/models` or `~/.cache/ossft_ray/models`.
    Processes that ask for the same model at the same time wait for the first one. Weights are downloaded only if
    `weights` is true.

    Raises:
        InputError: the store cannot be read, or the folder holds no usable model.
    """
    source = Folder.at(uri)
    try:
        names = source.names()
        if CONFIG not in names:
            raise InputError(f"[policy] model: {uri} holds no {CONFIG}; give a Hugging Face model folder")
        check_weights(names, uri)
        digest = digest_files(source, names)
        wanted = [name for name in names if not name.endswith(_PICKLES) and (weights or not name.endswith(_WEIGHTS))]
        return str(_download(source, wanted, _cache() / (digest if weights else f"{digest}-without-weights")))
    except OSError as error:
        raise InputError(f"[policy] model: {uri} cannot be downloaded: {brief(error)}") from error


def _download(source: Folder, names: list[str], target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f"{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.is_dir():
            return target
        staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=".partial-"))
        try:
            for name in names:
                fs.copy_files(f"{source.path}/{name}", str(staging / name), source_filesystem=source.filesystem)
            staging.rename(target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return target


def _cache() -> Path:
    root = os.environ.get("OSSFT_CACHE") or _DEFAULT_CACHE
    return Path(_DEFAULT_CACHE if is_uri(root) else root).expanduser() / "models"
