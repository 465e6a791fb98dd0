"""With which command does a trainer train on an export? A shell script for each, with the run's own settings.

TRL's options are those of 1.16 (`trl sft --help`), LLaMA-Factory's those of its README of August 2026, verl's those of
`verl/trainer/config/sft_trainer_engine.yaml` at 0.10.0.dev. Each script takes further options, which come last and win.
"""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ossft_ray.common import playground_paths

SCRIPT, TEMPLATE = "train.sh", "chat_template.jinja"
_LENGTH_STEP = 256


@dataclass(frozen=True)
class Recipe:
    """What a script needs to know of the run and its examples."""

    file: str  # the data, beside the script
    model: str
    revision: str | None
    lora: str | None
    has_template: bool  # the policy's chat template lies beside the script
    end_of_turn: str | None  # where it is not the end of text that the tokenizer names; else None
    max_tokens: int  # nothing is longer
    num_rows: int
    train: dict[str, Any]  # [train] of the experiment

    @property
    def max_length(self) -> int:
        """A limit in tokens under which no example is cut."""
        return -(-self.max_tokens // _LENGTH_STEP) * _LENGTH_STEP


def train_script(layout: str, recipe: Recipe) -> str:
    """The script of a layout's trainer."""
    return "\n".join([*_head(layout, recipe), "", *_COMMANDS[layout](recipe), ""])


def _head(layout: str, recipe: Recipe) -> list[str]:
    lines = [
        "#!/usr/bin/env bash",
        f"# Trains on these examples with {_WITH[layout]}:",
        "#     bash train.sh [more options of the trainer]",
        "# MODEL=... trains another model than the policy that the examples are on-policy for; OUTPUT=... is the new",
        f"# model's folder. The limit of {recipe.max_length} tokens is above the longest example, so none is cut.",
    ]
    if recipe.lora:
        lines.append(
            f"# The policy sampled with the LoRA adapter {shlex.quote(recipe.lora)}: merge it into the model first."
        )
    if recipe.train["loss"] not in _LOSSES[layout]:
        lines.append(
            f"# The run's loss is {recipe.train['loss']}, which this trainer lacks: this is plain fine-tuning."
        )
    return [
        *lines,
        "set -euo pipefail",
        "",
        'here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)',
        f"model=${{MODEL:-{_model(recipe)}}}",
        "output=${OUTPUT:-trained}",
        "gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU ' || true)",
        "workers=$((gpus > 0 ? gpus : 1))",
    ]


def _model(recipe: Recipe) -> str:
    """The default model as a word for the shell; one revision of it is fetched, since verl takes no revisions."""
    if recipe.model == playground_paths.POLICY:
        return "$(python -c 'from ossft_ray.common.playground_paths import POLICY_FOLDER; print(POLICY_FOLDER)')"
    name = shlex.quote(recipe.model)
    return f"$(hf download --quiet {name} --revision {shlex.quote(recipe.revision)})" if recipe.revision else name


def _trl(recipe: Recipe) -> list[str]:
    train = recipe.train
    options = [
        '--model_name_or_path "$model"',
        *([f'--chat_template_path "$here/{TEMPLATE}"'] if recipe.has_template else []),
        *([f"--eos_token {shlex.quote(recipe.end_of_turn)}"] if recipe.end_of_turn else []),
        '--dataset_name "$here"',
        f"--max_length {recipe.max_length}",
        f"--loss_type {'dft' if train['loss'] == 'dft' else 'nll'}",
        *_hugging_face_options(train, "--warmup_steps"),  # a share of them, since transformers 5,
        f"--bf16 {_bf16(train)}",
        "--report_to none",
        '--output_dir "$output"',
    ]
    return [*_accumulation(train), _command("trl sft", options)]


def _llama_factory(recipe: Recipe) -> list[str]:
    train = recipe.train
    options = [
        "--stage sft --do_train --finetuning_type full",
        '--model_name_or_path "$model"',
        '--dataset_dir "$here" --dataset train',
        f"--cutoff_len {recipe.max_length}",
        *(["--use_dft_loss"] if train["loss"] == "dft" else []),
        *_hugging_face_options(train, "--warmup_ratio"),
        f"--bf16 {_bf16(train)}",
        "--report_to none",
        '--output_dir "$output"',
    ]
    remark = ["# Without --template, LLaMA-Factory reads the chat template from the model's tokenizer."]
    if recipe.has_template:
        remark.append(f"# The policy was given the one in {TEMPLATE}: put it into the model's folder first.")
    return [*_accumulation(train), *remark, _command("llamafactory-cli train", options)]


def _verl(recipe: Recipe) -> list[str]:
    train = recipe.train
    beta_1, beta_2 = train["betas"]
    options = [
        f'"data.train_files=$(quoted "$here/{recipe.file}")"',
        "data.messages_key=messages",
        f"data.train_batch_size={min(train['global_batch_size'], recipe.num_rows)}",
        f"data.max_length={recipe.max_length}",
        f"data.max_token_len_per_gpu={max(8192, recipe.max_length)}",
        '"model.path=$(quoted "$model")"',
        *([f'"model.custom_chat_template=$(quoted "$(<"$here/{TEMPLATE}")")"'] if recipe.has_template else []),
        "engine=fsdp",
        f"optim.lr={train['learning_rate']}",
        f"optim.weight_decay={train['weight_decay']}",
        f"'optim.betas=[{beta_1},{beta_2}]'",
        f"optim.lr_warmup_steps_ratio={train['warmup_ratio']}",
        "optim.lr_scheduler_type=cosine",
        f"optim.clip_grad={train['max_grad_norm']}",
        f"trainer.total_epochs={train['epochs']}",
        "trainer.save_freq=after_each_epoch",
        "'checkpoint.save_contents=[model,optimizer,extra,hf_model]'",
        "'trainer.logger=[console]'",
        "trainer.project_name=ossft",
        "trainer.experiment_name=ossft",
        '"trainer.default_local_dir=$(quoted "$output")"',
    ]
    before = [
        r"""quoted() { printf "'%s'" "${1//\'/\\\'}"; } # for Hydra""",
        "# verl drops the last partial batch of each epoch.",
    ]
    launch = 'torchrun --standalone --nnodes=1 --nproc_per_node="$workers" -m verl.trainer.sft_trainer'
    return [*before, _command(launch, options)]


def _hugging_face_options(train: dict[str, Any], warmup: str) -> list[str]:
    beta_1, beta_2 = train["betas"]
    return [
        f"--learning_rate {train['learning_rate']} --lr_scheduler_type cosine {warmup} {train['warmup_ratio']}",
        f"--weight_decay {train['weight_decay']} --adam_beta1 {beta_1} --adam_beta2 {beta_2}",
        f"--max_grad_norm {train['max_grad_norm']} --num_train_epochs {train['epochs']}",
        '--per_device_train_batch_size 1 --gradient_accumulation_steps "$accumulation"',
    ]


def _accumulation(train: dict[str, Any]) -> list[str]:
    return [f"accumulation=$((({train['global_batch_size']} + workers - 1) / workers))"]


def _bf16(train: dict[str, Any]) -> str:
    return '"$([[ $gpus -gt 0 ]] && echo true || echo false)"' if train["precision"] == "bf16" else "false"


def _command(name: str, options: list[str]) -> str:
    return " \\\n    ".join([name, *options, '"$@"'])


_COMMANDS: dict[str, Callable[[Recipe], list[str]]] = {"trl": _trl, "sharegpt": _llama_factory, "verl": _verl}
_WITH = {
    "trl": "TRL (pip install 'trl>=1.16')",
    "sharegpt": "LLaMA-Factory (https://github.com/hiyouga/LLaMA-Factory; README.md says how with Axolotl)",
    "verl": "verl 0.10 (https://github.com/verl-project/verl)",
}
_LOSSES = {"trl": ("dft", "sft"), "sharegpt": ("dft", "sft"), "verl": ("sft",)}
