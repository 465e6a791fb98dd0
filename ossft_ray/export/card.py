"""The data-set card of an export: a README.md with the Hub's metadata, from the template `card.md.jinja`."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ossft_ray.common.uris import join
from ossft_ray.export.formats import COMMON_COLUMNS, ExportFormat
from ossft_ray.run_folder.names import MODEL, TRAIN
from ossft_ray.run_folder.reader import RunFolder

CARD, TAG = "README.md", "ossft-ray"
UNKNOWN_LICENSE = "unknown"
_TEMPLATE = Path(__file__).with_name("card.md.jinja")
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_SAMPLING_KEYS = ("num_samples", "temperature", "top_p", "max_tokens", "hide_answer")
_RARE_SAMPLING_KEYS = ("top_k", "min_p", "presence_penalty")  # named where they are not 0


@dataclass(frozen=True)
class CardFacts:
    """The facts about an export that its card states."""

    run: RunFolder
    policy: str
    origins: dict[str, int]  # exported rows by origin
    file: str
    format: ExportFormat
    name: str  # heading: the repository's or the folder's name
    location: str  # of the data set: on the Hub, or the folder of the export
    is_remote: bool  # in an object store, which `load_dataset` reads file by file
    license: str
    only_origins: tuple[str, ...]  # the selected ones; empty: all

    @property
    def num_rows(self) -> int:
        return sum(self.origins.values())

    @property
    def load_arguments(self) -> str:
        """The first arguments of `load_dataset`."""
        if not self.is_remote:
            return json.dumps(self.location)
        kind = "parquet" if self.format.suffix == ".parquet" else "json"
        return f'"{kind}", data_files={json.dumps(join(self.location, self.file))}'


def render_card(facts: CardFacts) -> str:
    """The whole README.md."""
    from huggingface_hub import DatasetCard, DatasetCardData

    experiment = facts.run.experiment
    prompts = experiment.get("prompts", {})
    metadata = DatasetCardData(
        license=facts.license,
        pretty_name=facts.name,
        task_categories=["text-generation"],
        size_categories=[next((name for limit, name in _SIZES if facts.num_rows < limit), "other")],
        tags=[TAG, "sft", "on-policy", "synthetic", "arxiv:2509.15157"],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": facts.file}]}],
    )
    card = DatasetCard.from_template(
        metadata,
        template_path=str(_TEMPLATE),
        facts=facts,
        columns=facts.format.columns | COMMON_COLUMNS,
        progress=" of ".join(f"{number:,}" for number in facts.run.progress() if number is not None),
        funnel=_funnel(facts),
        settings=_settings(facts),
        prompts={
            "system message": prompts.get("system"),
            "prompt": prompts.get("solve"),
            "prompt of guided-alignment": prompts.get("guided"),
            "chat template, in place of the policy's own": experiment.get("policy", {}).get("chat_template"),
        },
        policy=_without_folders(facts.policy),
        code=code,
        fence=fence,
    )
    return f"{str(card).rstrip()}\n"


def _funnel(facts: CardFacts) -> dict[str, int | None]:
    """Counts from the rows of the input to the exported rows; None if the manifest does not state it."""
    manifest = facts.run.rewrite_manifest
    problems, rejected, origins = manifest.get("problems"), manifest.get("rejected"), manifest.get("origins", {})
    return {
        "rows of the input": None if problems is None or rejected is None else problems + rejected,
        "rejected": rejected,
        **{f"rejected: {reason}": number for reason, number in manifest.get("rejected_reasons", {}).items()},
        "problems": problems,
        "the policy's own solution (`self`)": origins.get("self"),
        "written with the expert's solution in view (`guided`)": origins.get("guided"),
        "written by another model (`external`)": origins.get("external"),
        "the expert's solution (`expert`)": origins.get("expert"),
        "dropped: no correct solution": manifest.get("dropped"),
        "attempts": manifest.get("attempts"),
        "tokens generated": manifest.get("generated_tokens"),
        **{f"exported rows of origin `{origin}`": number for origin, number in facts.origins.items()},
    }


def _settings(facts: CardFacts) -> dict[str, Any]:
    """The settings that the data depends on, where the run's config states them."""
    experiment, config, manifest = facts.run.experiment, facts.run.config, facts.run.rewrite_manifest
    policy, data, rewrite = (experiment.get(section, {}) for section in ("policy", "data", "rewrite"))
    sources = data.get("path") or []
    overlaps = ", ".join(f"{name} {number}" for name, number in manifest.get("contamination", {}).items())
    return {
        "policy": _without_folders(facts.policy),
        "revision of the policy": policy.get("revision"),
        "LoRA adapter": _without_folders(policy.get("lora") or ""),
        "precision of sampling": policy.get("dtype"),
        "variables of the chat template": ", ".join(
            f"{name} {json.dumps(value)}" for name, value in policy.get("chat_template_kwargs", {}).items()
        ),
        "source": ", ".join(map(_without_folders, [sources] if isinstance(sources, str) else sources)),
        "self-alignment": _sampling(rewrite, "self"),
        "guided-alignment": _sampling(rewrite, "guided"),
        **_external(rewrite),
        "fallback": rewrite.get("fallback"),
        "overlap with benchmarks": overlaps and f"{overlaps} ({data.get('contamination')})",
        "correct means": f"verified as {experiment.get('verify', {}).get('kind')}",
        "seed": config.get("seeds", {}).get("run"),
        "fingerprint": config.get("fingerprints", {}).get("rewrite") or manifest.get("fingerprint"),
        "versions": ", ".join(f"{name} {version}" for name, version in config.get("versions", {}).items()),
    }


def _sampling(rewrite: dict[str, Any], stage: str) -> str:
    if stage not in rewrite.get("stages", ()):
        return "not used"
    settings = rewrite.get(f"{stage}_alignment", {})
    names = [name for name in _SAMPLING_KEYS if name in settings]
    names += [name for name in _RARE_SAMPLING_KEYS if settings.get(name)]
    return ", ".join(f"{name} {json.dumps(settings[name])}" for name in names)


def _external(rewrite: dict[str, Any]) -> dict[str, str]:
    """The other model and its sampling, in a run that has one."""
    if "external" not in rewrite.get("stages", ()):
        return {}
    model = _without_folders(rewrite["external_alignment"]["model"])
    return {"external-alignment": f"{model}, {_sampling(rewrite, 'external')}"}


def _without_folders(path: str) -> str:
    """A Hub id as is, or the end of a path, because its folders describe a machine and not the data."""
    if re.fullmatch(r"[\w-]+/[\w.-]+", path) and not path.endswith((".jsonl", ".parquet")):
        return path
    parts = path.rstrip("/").split("/")
    return "/".join(parts[-3:] if parts[-2:] == [TRAIN, MODEL] else parts[-1:])  # a trained model keeps its run's name


def code(value: Any) -> str:
    """Text as inline Markdown code that is safe in a table."""
    text = " ".join(str(value).split()).replace("|", "\\|")
    ticks = "`" * (1 + _longest_ticks(text))
    padding = " " if "`" in text else ""
    return f"{ticks}{padding}{text}{padding}{ticks}"


def fence(text: str) -> str:
    """Text as a block of Markdown code."""
    ticks = "`" * max(3, 1 + _longest_ticks(text))
    return f"{ticks}text\n{text}\n{ticks}"


def _longest_ticks(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
