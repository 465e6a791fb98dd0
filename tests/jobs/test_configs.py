"""The experiment files in jobs/: all are valid, and those of the paper hold the paper's settings."""

from pathlib import Path
from typing import Any

import pytest

from ossft_ray.common.storage import Folder
from ossft_ray.config import load_experiment

JOBS = Path(__file__).parents[2] / "jobs"
PAPER = {"qwen2.5-math-7b": "Qwen/Qwen2.5-Math-7B", "llama-3.1-8b-instruct": "meta-llama/Llama-3.1-8B-Instruct"}


@pytest.mark.parametrize("path", sorted(JOBS.rglob("*.toml")), ids=lambda path: path.stem)
def test_the_file_is_valid(path: Path) -> None:
    experiment = load_experiment(path)
    assert Folder.at(experiment.run.output).path.endswith(f"runs/{path.stem}")


# The paper's four rows for each model: alignment stages, loss, and the row whose examples are reused.
ROWS = {
    "-sft": ([], "sft", None),
    "-dft": ([], "dft", "-sft"),
    "-dr-sft": (["self", "guided"], "sft", ""),
    "": (["self", "guided"], "dft", None),
}


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("name", PAPER)
def test_rows_differ_in_data_and_loss_only(name: str, row: str) -> None:
    experiment, main = (load_experiment(JOBS / "configs" / f"{name}{ending}.toml") for ending in (row, ""))
    stages, loss, shared = ROWS[row]
    assert experiment.rewrite.stages == stages
    assert experiment.train.loss == loss
    assert experiment.train.examples == (None if shared is None else f"/shared/runs/{name}{shared}/rewrite")
    if shared is not None:
        owner = load_experiment(JOBS / "configs" / f"{name}{shared}.toml")
        assert experiment.train.examples == f"{owner.run.output}/rewrite"
        assert owner.rewrite == experiment.rewrite and owner.data == experiment.data
    same = {"loss": "dft", "examples": None}
    assert experiment.train.model_copy(update=same) == main.train.model_copy(update=same)
    for section in ("policy", "data", "prompts", "verify", "evaluate", "loop", "resources"):
        assert getattr(experiment, section) == getattr(main, section)
    assert experiment.policy.model == PAPER[name]


# arXiv 2509.15157, experimental setup; the batch, AdamW and schedule are those of DFT's training code (2508.05629).
@pytest.mark.parametrize("name", PAPER)
@pytest.mark.parametrize(
    "key, value",
    [
        ("prompts.system", r"Please reason step by step, and put your final answer within \boxed{}."),
        ("prompts.solve", "{question}"),
        ("data.limit", 50_000),
        ("data.columns.question", "problem"),
        ("data.columns.expert_solution", "solution"),
        ("rewrite.stages", ["self", "guided"]),
        ("rewrite.fallback", "expert"),
        ("rewrite.self_alignment.temperature", 1.0),
        ("rewrite.self_alignment.top_p", 1.0),
        ("rewrite.self_alignment.max_tokens", 2048),
        ("rewrite.guided_alignment.temperature", 0.7),
        ("rewrite.guided_alignment.max_tokens", 2048),
        ("verify.kind", "math"),
        ("train.loss", "dft"),
        ("train.learning_rate", 5e-5),
        ("train.epochs", 1),
        ("train.global_batch_size", 256),
        ("train.max_length", 2048),
        ("train.precision", "bf16"),
        ("train.betas", (0.9, 0.95)),
        ("train.weight_decay", 0.01),
        ("train.max_grad_norm", 1.0),
        ("train.warmup_ratio", 0.1),
        ("evaluate.benchmarks", ["math500", "minerva_math", "olympiadbench", "aime24", "amc23"]),
        ("evaluate.num_samples", 16),
        ("evaluate.temperature", 1.0),
        ("evaluate.top_p", 1.0),
        ("evaluate.max_tokens", 4096),
        ("loop.rounds", 1),
    ],
)
def test_paper_settings(name: str, key: str, value: Any) -> None:
    setting: Any = load_experiment(JOBS / "configs" / f"{name}.toml")
    for part in key.split("."):
        setting = getattr(setting, part)
    assert setting == value


@pytest.mark.parametrize("name, model", PAPER.items())
def test_paper_experiments_run_as_jobs(name: str, model: str) -> None:
    experiment = load_experiment(JOBS / "configs" / f"{name}.toml")
    assert experiment.policy.model == model
    for path in (experiment.run.output, experiment.data.path, experiment.evaluate.data_dir):
        assert isinstance(path, str) and Path(path).is_absolute()


@pytest.mark.parametrize(
    "name, template", [("qwen2.5-math-7b", "qwen-boxed"), ("llama-3.1-8b-instruct", "llama-steps")]
)
def test_authors_settings_differ_from_the_papers_where_their_code_does(name: str, template: str) -> None:
    """github.com/NKU-HLT/Off-Policy-SFT: train_dft.sh, fsdp_dft_trainer.py and math_eval.py; see docs/fidelity.md."""
    authors, main = (load_experiment(JOBS / "configs" / f"{name}{ending}.toml") for ending in ("-authors", ""))
    theirs = {"mean_over": 4, "max_grad_norm": 1 / 32, "warmup_from_zero": True, "master_weights": "bf16"}
    assert authors.train == main.train.model_copy(update=theirs | {"examples": f"{main.run.output}/rewrite"})
    assert authors.evaluate == main.evaluate.model_copy(update={"template": template})
    for section in ("data", "prompts", "rewrite", "verify", "loop", "resources"):
        assert getattr(authors, section) == getattr(main, section)
