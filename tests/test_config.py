"""The experiment file: the defaults of the contract, overrides, and the messages that name a fault."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ossft_ray.common.errors import InputError
from ossft_ray.config import Experiment, load_experiment, resolve

LEAST = {"policy": {"model": "playground"}, "data": {"path": "train.jsonl"}}

# The listing in the public contract (DESIGN.md, section 6).
CONTRACT = {
    "run.output": "runs/first",
    "run.seed": 0,
    "data.columns.id": "id",
    "data.columns.question": "problem",
    "data.columns.answer": "answer",
    "data.columns.expert_solution": "solution",
    "rewrite.stages": ["self", "guided"],
    "rewrite.fallback": "expert",
    "rewrite.exhaustive": False,
    "rewrite.keep_attempts": False,
    "rewrite.self_alignment.num_samples": 8,
    "rewrite.self_alignment.temperature": 1.0,
    "rewrite.self_alignment.top_p": 1.0,
    "rewrite.self_alignment.max_tokens": 2048,
    "rewrite.guided_alignment.num_samples": 4,
    "rewrite.guided_alignment.temperature": 0.7,
    "rewrite.guided_alignment.top_p": 1.0,
    "rewrite.guided_alignment.max_tokens": 2048,
    "rewrite.guided_alignment.hide_answer": True,  # by measurement; see docs/guided_rows.md
    "verify.kind": "math",
    "verify.timeout_seconds": 5.0,
    "verify.num_workers": 2,
    "train.loss": "dft",
    "train.learning_rate": 5e-5,
    "train.epochs": 1,
    "train.global_batch_size": 256,
    "train.max_length": 2048,
    "train.zero_stage": 2,
    "train.precision": "bf16",
    "train.packing": True,
    "train.checkpoint_every": 50,
    "train.examples": None,
    "evaluate.benchmarks": ["math500", "minerva_math", "olympiadbench", "aime24", "amc23"],
    "evaluate.data_dir": "",
    "evaluate.num_samples": 16,
    "evaluate.temperature": 1.0,
    "evaluate.top_p": 1.0,
    "evaluate.max_tokens": 4096,
    "loop.rounds": 1,
    "resources.num_policies": "auto",
    "resources.gpus_per_policy": "auto",
    "resources.num_train_workers": "auto",
    "resources.gpus_per_train_worker": "auto",
}


def value_of(experiment: Experiment, key: str) -> Any:
    value: Any = experiment
    for name in key.split("."):
        value = getattr(value, name)
    return value


@pytest.mark.parametrize("key, default", CONTRACT.items(), ids=CONTRACT)
def test_the_contracts_defaults_are_unchanged(key: str, default: Any) -> None:
    assert value_of(resolve(LEAST), key) == default
    assert type(value_of(resolve(LEAST), key)) is type(default)


def test_every_default_is_visible_in_the_resolved_experiment() -> None:
    resolved = resolve(LEAST).model_dump(mode="json")
    assert resolve(resolved) == resolve(LEAST)
    assert resolved["rewrite"]["self_alignment"]["num_samples"] == 8


@pytest.mark.parametrize(
    "override, key, value",
    [
        ("run.output=runs/second", "run.output", "runs/second"),
        ("run.output='runs/a b'", "run.output", "runs/a b"),
        ('run.output="s3://bucket/run"', "run.output", "s3://bucket/run"),
        ("run.output=s3://bucket/run?a=b", "run.output", "s3://bucket/run?a=b"),
        ("run.seed=7", "run.seed", 7),
        (" run.seed = 7 ", "run.seed", 7),
        ("train.learning_rate=1e-3", "train.learning_rate", 1e-3),
        ("train.learning_rate=1", "train.learning_rate", 1.0),
        ("train.packing=false", "train.packing", False),
        ("rewrite.stages=[]", "rewrite.stages", []),
        ('rewrite.stages=["guided"]', "rewrite.stages", ["guided"]),
        ("rewrite.self_alignment.num_samples=2", "rewrite.self_alignment.num_samples", 2),
        ("data.path=['a.jsonl', 'b.jsonl']", "data.path", ["a.jsonl", "b.jsonl"]),
        ("data.limit=200", "data.limit", 200),
        ("policy.engine.gpu_memory_utilization=0.5", "policy.engine", {"gpu_memory_utilization": 0.5}),
        ("policy.engine={max_model_len=64}", "policy.engine", {"max_model_len": 64}),
        ("prompts.system=", "prompts.system", ""),
        ("resources.num_policies=4", "resources.num_policies", 4),
        ("resources.num_policies=auto", "resources.num_policies", "auto"),
        ("train.betas=[0.8, 0.9]", "train.betas", (0.8, 0.9)),
    ],
)
def test_overrides_are_read_as_toml_or_bare_words(override: str, key: str, value: Any) -> None:
    experiment = load_experiment(None, ["policy.model=playground", "data.path=train.jsonl", override])
    assert value_of(experiment, key) == value


def test_overrides_win_over_the_file_and_the_last_one_wins(tmp_path: Path) -> None:
    file = tmp_path / "experiment.toml"
    file.write_text('[run]\nseed = 1\noutput = "kept"\n[policy]\nmodel = "playground"\n[data]\npath = "train.jsonl"\n')
    assert load_experiment(file).run.seed == 1
    experiment = load_experiment(str(file), ("run.seed=2", "run.seed=3"))
    assert (experiment.run.seed, experiment.run.output) == (3, "kept")


@pytest.mark.parametrize(
    "override, words",
    [
        # unknown keys, with the nearest one
        ("train.learning_rat=1", "unknown key 'train.learning_rat'; did you mean 'learning_rate'?"),
        ("trian.loss=sft", "unknown key 'trian'; did you mean 'train'?"),
        ("rewrite.self_alignment.num_sample=3", "did you mean 'num_samples'?"),
        ("data.columns.questions=q", "unknown key 'data.columns.questions'; did you mean 'question'?"),
        ("run.zzzz=1", "unknown key 'run.zzzz'; valid keys: output, seed"),
        ("policy.models=x", "did you mean 'model'?"),
        (  # [train] has some forty keys
            "train.hyperparameters.x=1",
            "'train.hyperparameters'; the nearest valid keys: hang_after, examples, learning_rate, stop_after, master_",
        ),
        # wrong types
        ("run.seed=1.5", "'run.seed': should be a valid integer, not 1.5"),
        ("run.seed=true", "'run.seed': should be a valid integer, not true"),
        ("run.seed=zero", "'run.seed': should be a valid integer, not \"zero\""),
        ("run.output=3", "'run.output': should be a valid string, not 3"),
        ("train.packing=1", "'train.packing': should be a valid boolean, not 1"),
        ("train.learning_rate='1e-3'", "'train.learning_rate': should be a valid number"),
        ("rewrite.stages=self", "'rewrite.stages': should be a valid list, not \"self\""),
        ("rewrite.self_alignment=4", "'rewrite.self_alignment': should be a valid dictionary"),
        ("policy.engine=3", "'policy.engine': should be a valid dictionary, not 3"),
        ("data.path=3", "'data.path': should be a valid string or a valid list, not 3"),
        ("data.path=[1]", "'data.path': should be a valid string, not [1]"),
        ("train.betas=[0.9]", "'train.betas.1' is required"),
        ("resources.num_policies=all", "'resources.num_policies': should be a valid integer or 'auto', not \"all\""),
        ("train.lora=3", "'train.lora': should be a valid dictionary"),
        ("train.lora.rank=0", "'train.lora.rank': should be greater than 0, not 0"),
        ("train.lora.rnak=8", "unknown key 'train.lora.rnak'; did you mean 'rank'?"),
        ("train.lora.target_modules=[3]", "'train.lora.target_modules.0': should be a valid string, not 3"),
        # impossible values
        ("train.stop_after=3x", "'train.stop_after': not a duration such as 3h45m"),
        ("resources.replan_after=", "'resources.replan_after': not a duration such as 3h45m"),
        ("train.is_clip.low=4", "'train.is_clip': low must not exceed high"),
        ("rewrite.stages=['self', 'self']", "'rewrite': stages must not name a stage twice"),
        ("run.seed=-1", "'run.seed': should be greater than or equal to 0, not -1"),
        ("run.output=", "'run.output': String should have at least 1 character"),
        ("data.limit=0", "'data.limit': should be greater than 0, not 0"),
        ("train.epochs=0", "'train.epochs': should be greater than 0, not 0"),
        ("train.learning_rate=0", "'train.learning_rate': should be greater than 0, not 0"),
        ("train.learning_rate=nan", "'train.learning_rate': should be"),
        ("train.betas=[1.5, 0.9]", "'train.betas.0': should be less than 1, not 1.5"),
        ("train.zero_stage=4", "'train.zero_stage': should be 0, 1, 2, 3 or 'auto', not 4"),
        ("train.precision=fp8", "'train.precision': should be 'bf16' or 'fp32', not \"fp8\""),
        ("train.loss=ppo", "'train.loss': should be 'sft', 'dft', 'iw_sft', 'psft', "),
        ("train.warmup_ratio=1", "'train.warmup_ratio': should be less than 1, not 1"),
        ("rewrite.stages=['selfie']", "'rewrite.stages.0': should be 'self', 'guided' or 'external', not \"selfie\""),
        ("rewrite.fallback=keep", "'rewrite.fallback': should be 'expert' or 'drop', not \"keep\""),
        ("rewrite.self_alignment.top_p=0", "'rewrite.self_alignment.top_p': should be greater than 0, not 0"),
        ("rewrite.self_alignment.top_p=1.1", "'rewrite.self_alignment.top_p': should be less than or equal to 1"),
        ("rewrite.guided_alignment.temperature=-0.1", "should be greater than or equal to 0, not -0.1"),
        ("verify.timeout_seconds=inf", "'verify.timeout_seconds': should be a finite number"),
        ("verify.number.tolerance=1", "unknown key 'verify.number.tolerance'; did you mean 'relative_tolerance'?"),
        ("resources.gpus_per_policy=-1", "should be greater than or equal to 0 or 'auto', not -1"),
        ("prompts.solve=Solve it", "solve must contain {question}"),
        ("prompts.guided='{question}'", "guided must contain {question} and {expert_solution}"),
        (
            "prompts.template=qwen",
            "'prompts.template': should be 'qwen25-math-cot', 'qwen-boxed', ",
        ),
        (
            "evaluate.template=qwen",
            "'evaluate.template': should be 'qwen25-math-cot', 'qwen-boxed', ",
        ),
        ("policy.date=today", "'policy.date': should be a date such as 2026-01-31, not today"),
        ("train.keep=best", "needs problems to measure on: set holdout"),
        ("train.idft.min_gamma=3", "min_gamma must not exceed max_gamma"),
        ("evaluate.benchmarks=['aime24', 'aime24']", "benchmarks names aime24 twice"),
        ("evaluate.models={base='x'}", "models must not name one 'base'"),
        ("evaluate.models={'a/b'='x'}", "'evaluate.models': String should match"),
        # not section.key=value
        ("run.seed", "--set run.seed: write it as section.key=value"),
        ("seed=1", "--set seed=1: write it as section.key=value"),
        ("=1", "--set =1: write it as section.key=value"),
        ("run.=1", "--set run.=1: write it as section.key=value"),
        ("policy.model.size=7", "--set policy.model.size=7: 'model' is not a section"),
    ],
)
def test_a_faulty_override_is_refused_with_its_key_and_reason(override: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        load_experiment(None, ["policy.model=playground", "data.path=train.jsonl", override])
    message = str(caught.value)
    assert words in message
    assert "more)" not in message, "one fault is one fault"
    assert "\n" not in message
    assert len(message) < 200


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"data": {"path": "x"}}, "'policy.model' is required; set it"),
        ({"policy": {}, "data": {"path": "x"}}, "'policy.model' is required; set it"),
        ({"policy": {"model": "x"}}, "'data.path' is required; set it"),
        ({}, "'policy.model' is required; set it in the experiment file or with --set (and 1 more)"),
        ({**LEAST, "a.b": 1}, "unknown key 'a.b'; valid keys: run, policy"),
        ({**LEAST, "run": {"seed": -1, "outputs": ""}}, "(and 1 more)"),
        (
            {**LEAST, "train": {"keep": "best", "keep_by": "loss"}},
            """'train': keep_by = "loss" finds no best checkpoint with loss = "dft",""",
        ),
        ({**LEAST, "train": {"loss": "idft_v1", "keep": "best", "keep_by": "loss"}}, 'Set keep_by = "cross_entropy"'),
        ({**LEAST, "run": 3}, "'run': should be a valid dictionary or instance of RunSettings, not 3"),
    ],
)
def test_a_faulty_experiment_is_refused_with_its_first_fault(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve(settings, source="x.toml")
    assert str(caught.value).startswith("x.toml: ")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "train",
    [
        {"loss": "sft", "keep": "best", "keep_by": "loss"},  # it is the cross-entropy
        {"loss": "dft", "keep": "best", "keep_by": "mean_token_probability"},
        {"loss": "dft", "keep": "last", "keep_by": "loss"},
    ],
)
def test_keep_by_may_name_an_unused_figure_or_one_of_fit(train: dict[str, Any]) -> None:
    assert resolve({**LEAST, "train": train | {"holdout": 0.1}}).train.keep_by == train["keep_by"]


@pytest.mark.parametrize(
    "content, words",
    [
        (None, "no such experiment file"),
        (b"[run\n", "not valid TOML"),
        (b"\xff\xfe", "cannot be read"),
        (b"[run]\nseed = 1\nseed = 2\n", "not valid TOML"),
    ],
)
def test_an_unreadable_file_is_refused(tmp_path: Path, content: bytes | None, words: str) -> None:
    file = tmp_path / "experiment.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        load_experiment(file)
    assert str(file) in str(caught.value)


def test_a_folder_is_not_an_experiment_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_experiment(tmp_path)


@pytest.mark.parametrize("key", ["run", "policy", "data", "rewrite"])
def test_an_experiment_is_frozen(key: str) -> None:
    experiment = resolve(LEAST)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(experiment, key, None)
    with pytest.raises(ValidationError, match="frozen"):
        experiment.run.seed = 1


@pytest.mark.parametrize(
    "prompts, expected",
    [
        ({}, {"solve": "{question}"}),
        ({"template": "qwen-boxed"}, {"system": "You are a helpful assistant."}),
        ({"template": "qwen-boxed", "system": ""}, {"system": ""}),
        ({"template": "llama-boxed", "solve": "Q: {question}"}, {"system": "", "solve": "Q: {question}"}),
    ],
)
def test_given_prompts_win_over_the_template(prompts: dict[str, str], expected: dict[str, str]) -> None:
    found = resolve({**LEAST, "prompts": prompts})
    assert {key: getattr(found.prompts, key) for key in expected} == expected
    assert resolve(found.model_dump()) == found


def test_a_date_may_be_a_toml_date() -> None:
    experiment = load_experiment(None, ["policy.model=playground", "data.path=train.jsonl", "policy.date=2026-01-31"])
    assert experiment.policy.date == "2026-01-31"
