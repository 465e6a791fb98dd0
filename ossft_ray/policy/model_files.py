"""Which files is a model made of, and how do those of an object store come onto this machine? Once a node, whole.

Weights are safetensors. Others are pickles, which run whatever code their author put into them when they are loaded.
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

_WEIGHTS = ".safetensors"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_CACHE_VARIABLE = "OSSFT_CACHE"


def check_weights(names: list[str], model: str, key: str = "[policy] model") -> None:
    """Refuse a model whose weights are pickles only.

    Raises:
        InputError: there are pickles and no safetensors among the files.
    """
    pickles = [name for name in names if name.endswith(_PICKLES)]
    if pickles and not any(name.endswith(_WEIGHTS) for name in names):
        raise InputError(
            f"{key}: {model} holds its weights as pickles ({pickles[0]}), which may run any code when they are loaded, "
            "and not as .safetensors; load it where its author is trusted, and save it again with save_pretrained"
        )


def fetch_model(uri: str, weights: bool) -> str:
    """A model folder of an object store as a local one, downloaded if it is not there; without its weights if so asked.

    The local folder is named after what the store's files hold, in `$OSSFT_CACHE/models` or
    `~/.cache/ossft_ray/models`. Processes that ask at the same time wait for the first one.

    Raises:
        InputError: the store cannot be read, or the folder holds no model that can be used.
    """
    source = Folder.at(uri)
    try:
        names = source.names()
        if "config.json" not in names:
            raise InputError(f"[policy] model: {uri} holds no config.json; give a Hugging Face model folder")
        check_weights(names, uri)
        digest = digest_files(source, names)
        wanted = [name for name in names if not name.endswith(_PICKLES) and (weights or not name.endswith(_WEIGHTS))]
        return str(_copy(source, wanted, _cache() / (digest if weights else f"{digest}-without-weights")))
    except OSError as error:
        raise InputError(f"[policy] model: {uri} cannot be had: {brief(error)}") from error


def _copy(source: Folder, names: list[str], target: Path) -> Path:
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
    root = os.environ.get(_CACHE_VARIABLE) or "~/.cache/ossft_ray"
    return Path("~/.cache/ossft_ray" if is_uri(root) else root).expanduser() / "models"
