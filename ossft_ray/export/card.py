"""What does a data set say of itself? A README.md with the Hub's metadata, how it was made and how to train on it."""

import json
import re
from dataclasses import dataclass
from typing import Any

from ossft_ray.common.uris import join
from ossft_ray.export.formats import COMMON_COLUMNS, Layout
from ossft_ray.export.train_command import SCRIPT
from ossft_ray.run_folder.names import MODEL

CARD, TAG = "README.md", "ossft-ray"
UNKNOWN_LICENSE = "unknown"
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_PROMPT_NAMES = {"system": "system message", "solve": "prompt", "guided": "prompt of guided-alignment"}
_CITATION = """\
@article{zhao2025mindthegap,
  title   = {Mind the Gap: Data Rewriting for Stable Off-Policy Supervised Fine-Tuning},
  author  = {Zhao and others},
  journal = {arXiv preprint arXiv:2509.15157},
  year    = {2025}
}"""
_AXOLOTL = """\
datasets:
  - path: {file}
    ds_type: json
    type: chat_template
    field_messages: conversations
    message_property_mappings:
      role: from
      content: value"""


@dataclass(frozen=True)
class CardFacts:
    """What a card tells."""

    name: str  # heading: the repository's or the folder's name
    location: str  # of the data set: on the Hub, or where it was exported to
    is_remote: bool  # in an object store, which `load_dataset` reads file by file
    layout: str
    file: str
    license: str
    num_rows: int
    origins: dict[str, int]  # exported rows
    only_origins: tuple[str, ...]  # those asked for; empty: all
    progress: tuple[int, int | None]  # problems done, and in all
    manifest: dict[str, Any] | None  # None: the rewriting was not complete
    policy: str
    config: dict[str, Any]  # the run's config.json


def render_card(facts: CardFacts, layout: Layout) -> str:
    """The whole README.md."""
    sections = [_front_matter(facts, layout), f"# {facts.name}", _summary(facts, layout), _columns(facts, layout)]
    sections += [_funnel(facts), _settings(facts), _training(facts, layout), _license(facts), _origin_of_method()]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(facts: CardFacts, layout: Layout) -> str:
    from huggingface_hub import DatasetCardData

    size = next(
        (name for limit, name in _SIZES if facts.num_rows < limit), "n>1T" if facts.num_rows >= 10**12 else "other"
    )
    data = DatasetCardData(
        license=facts.license,
        pretty_name=facts.name,
        task_categories=["text-generation"],
        size_categories=[size],
        tags=[TAG, "sft", "on-policy", "synthetic", "arxiv:2509.15157"],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": facts.file}]}],
    )
    return f"---\n{data.to_yaml(line_break=None)}\n---"


def _summary(facts: CardFacts, layout: Layout) -> str:
    done, total = facts.progress
    policy = _code(_without_folders(facts.policy))
    lines = [
        f"{facts.num_rows:,} examples for supervised fine-tuning, rewritten to be on-policy for {policy} with "
        "`ossft_ray` after *Mind the Gap* ([arXiv 2509.15157](https://arxiv.org/abs/2509.15157)): the policy's own "
        "correct solution where it found one, else one that it re-solved with the expert's solution in view, else the "
        "expert's. Every prompt is the plain one, whoever wrote the response. The files are laid out for "
        f"{layout.trainers}, which tokenises the texts anew; the run itself keeps the tokens as they were sampled."
    ]
    if facts.only_origins:
        lines.append(f"Only examples of these origins were exported: {', '.join(map(_code, facts.only_origins))}.")
    if facts.manifest is None:
        of_all = f"{done:,} of {total:,}" if total is not None else f"{done:,}"
        lines.append(f"**The rewriting was not complete** when this was exported: {of_all} problems were done.")
    return "\n\n".join(lines)


def _columns(facts: CardFacts, layout: Layout) -> str:
    rows = [f"| {_code(name)} | {words} |" for name, words in (layout.columns | COMMON_COLUMNS).items()]
    source = json.dumps(facts.location)
    if facts.is_remote:
        kind = "parquet" if layout.suffix == ".parquet" else "json"
        source = f'"{kind}", data_files={json.dumps(join(facts.location, facts.file))}'
    load = f'from datasets import load_dataset\n\nrows = load_dataset({source}, split="train")'
    return "\n".join(["| column | |", "|---|---|", *rows, "", _fenced(load, "python")])


def _funnel(facts: CardFacts) -> str:
    counts = facts.manifest or {}
    rejected = counts.get("rejected")
    rows: list[tuple[str, Any]] = []
    if facts.manifest is not None:
        rows += [("rows of the input", _plus(counts.get("problems"), rejected)), ("rejected", rejected)]
        rows += [(f"rejected: {reason}", number) for reason, number in counts.get("rejected_reasons", {}).items()]
        rows += [("problems", counts.get("problems"))]
        origins = counts.get("origins", {})
        words = {
            "self": "the policy's own solution",
            "guided": "re-solved with guidance",
            "expert": "the expert's solution",
        }
        rows += [(f"{words[origin]} (`{origin}`)", origins.get(origin)) for origin in words]
        rows += [("dropped: no correct solution", counts.get("dropped"))]
        rows += [("attempts", counts.get("attempts")), ("tokens generated", counts.get("generated_tokens"))]
    rows += [(f"exported rows of origin `{origin}`", number) for origin, number in facts.origins.items()]
    shown = [f"| {words} | {number:,} |" for words, number in rows if isinstance(number, int)]
    return "\n".join(["## What became of the problems", "", "| | number |", "|---|---:|", *shown])


def _settings(facts: CardFacts) -> str:
    """The policy, sampling, prompts, verification, versions and the fingerprint, as far as the run's config tells."""
    experiment = facts.config.get("experiment", {})
    if not experiment:
        return "## How it was made\n\nThe run kept no config.json, so its settings are not known."
    policy = experiment.get("policy", {})
    rewrite = experiment.get("rewrite", {})
    fingerprint = facts.config.get("fingerprints", {}).get("rewrite") or (facts.manifest or {}).get("fingerprint")
    table = {
        "policy": _without_folders(facts.policy),
        "revision of the policy": policy.get("revision"),
        "LoRA adapter": _without_folders(policy.get("lora") or ""),
        "precision of sampling": policy.get("dtype"),
        "source": ", ".join(map(_without_folders, _listed(experiment.get("data", {}).get("path")))),
        "self-alignment": _sampling(rewrite, "self"),
        "guided-alignment": _sampling(rewrite, "guided"),
        "fallback": rewrite.get("fallback"),
        "overlap with benchmarks": _overlap(facts.manifest or {}, experiment),
        "correct means": f"verified as {experiment.get('verify', {}).get('kind')}",
        "seed": facts.config.get("seeds", {}).get("run"),
        "fingerprint": fingerprint,
        "versions": ", ".join(f"{name} {version}" for name, version in facts.config.get("versions", {}).items()),
    }
    lines = ["## How it was made", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {_code(value)} |" for name, value in table.items() if value not in (None, "")]
    for name in ("system", "solve", "guided"):
        if text := experiment.get("prompts", {}).get(name):
            lines += ["", f"The {_PROMPT_NAMES[name]}:", "", _fenced(text)]
    return "\n".join(lines)


def _overlap(manifest: dict[str, Any], experiment: dict[str, Any]) -> str | None:
    """Problems that share words with a benchmark, and what became of them."""
    if not manifest.get("contamination"):
        return None
    counts = ", ".join(f"{name} {number}" for name, number in manifest["contamination"].items())
    return f"{counts} ({experiment.get('data', {}).get('contamination')})"


def _sampling(rewrite: dict[str, Any], stage: str) -> str:
    if stage not in rewrite.get("stages", ()):
        return "not used"
    settings = rewrite.get(f"{stage}_alignment", {})
    names = ("num_samples", "temperature", "top_p", "max_tokens", "hide_answer")
    return ", ".join(f"{name} {json.dumps(settings[name])}" for name in names if name in settings)


def _training(facts: CardFacts, layout: Layout) -> str:
    lines = ["## Train on it", "", f"With {layout.trainers.split(' or ')[0]}, and the run's own settings:", ""]
    lines += [_fenced(f"bash {SCRIPT}", "sh"), "", "`MODEL=...` trains another model; further options are handed on."]
    if facts.layout == "sharegpt":
        lines += ["", "With Axolotl, in the configuration file:", "", _fenced(_AXOLOTL.format(file=facts.file), "yaml")]
    return "\n".join(lines)


def _license(facts: CardFacts) -> str:
    if facts.license == UNKNOWN_LICENSE:
        return (
            "## Licence\n\nNot known: none was given when this was exported. The licences of the problems, of the "
            "expert solutions and of the policy decide what may be done with it."
        )
    return f"## Licence\n\n{_code(facts.license)}, as given when this was exported."


def _origin_of_method() -> str:
    return f"## Citation\n\n{_fenced(_CITATION, 'bibtex')}"


def _plus(problems: int | None, rejected: int | None) -> int | None:
    return None if problems is None or rejected is None else problems + rejected


def _listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value] if value else []


def _without_folders(path: str) -> str:
    """A Hub id as it is; of a path its end, since folders tell of a machine and not of the data."""
    if re.fullmatch(r"[\w-]+/[\w.-]+", path) and not path.endswith((".jsonl", ".parquet")):
        return path
    parts = path.rstrip("/").split("/")
    return "/".join(parts[-3:] if parts[-2:] == ["train", MODEL] else parts[-1:])  # a trained model's run says which


def _code(value: Any) -> str:
    """Text as Markdown code that also stands in a table."""
    text = " ".join(str(value).split()).replace("|", "\\|")
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    padding = " " if "`" in text else ""
    return f"{ticks}{padding}{text}{padding}{ticks}"


def _fenced(text: str, language: str = "text") -> str:
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"
