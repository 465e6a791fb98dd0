"""The scripts that train: run by a shell in which each trainer is a stand-in that notes how it was called."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trl.scripts.sft import make_parser

from ossft_ray.common.playground_paths import POLICY_FOLDER
from ossft_ray.config import Train
from ossft_ray.export.train_command import TEMPLATE, Recipe, train_script

TRAINERS = {"trl": "trl", "sharegpt": "llamafactory-cli", "verl": "torchrun"}
RECIPE = Recipe(
    "train-01234567.parquet", "Qwen/Qwen2.5-Math-1.5B", None, None, False, None, 1000, 200, Train().model_dump()
)
NOTE = """#!/bin/sh
exec {python} -c 'import json, sys; json.dump(sys.argv[1:], open("{calls}/{name}.json", "w"))' "$@"
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder whose name a shell may trip over, with stand-ins for the trainers in `bin`."""
    place = tmp_path / "it's an export"
    (place / "bin").mkdir(parents=True)
    for name in TRAINERS.values():
        stand_in(place, name, NOTE.format(python=sys.executable, calls=tmp_path, name=name))
    stand_in(place, "hf", '#!/bin/sh\necho "/cache/$*"\n')
    stand_in(place, "python", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    return place


def stand_in(place: Path, name: str, script: str) -> None:
    (place / "bin" / name).write_text(script)
    (place / "bin" / name).chmod(0o755)


def called_with(place: Path, layout: str, recipe: Recipe, *arguments: str, num_gpus: int = 0, **env: str) -> list[str]:
    """The arguments that the trainer gets."""
    gpus = "".join(f"echo 'GPU {number}: NVIDIA'\n" for number in range(num_gpus))
    stand_in(place, "nvidia-smi", f"#!/bin/sh\n{gpus or 'exit 9'}\n")
    script = place / "train.sh"
    script.write_text(train_script(layout, recipe))
    subprocess.run(["shellcheck", "--severity=warning", script], check=True, env=os.environ | {"PATH": path_of_tools()})
    path = f"{place}/bin:{os.environ['PATH']}"
    env = {name: value for name, value in os.environ.items() if name not in ("MODEL", "OUTPUT")} | env
    subprocess.run(["bash", str(script), *arguments], check=True, cwd=place.parent, env=env | {"PATH": path})
    found: list[str] = json.loads((place.parent / f"{TRAINERS[layout]}.json").read_text())
    return found


def path_of_tools() -> str:
    return f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def value_of(arguments: list[str], option: str) -> str:
    """The value of `--option value` or `option=value`."""
    for number, argument in enumerate(arguments):
        if argument == option:
            return arguments[number + 1]
        if argument.startswith(f"{option}="):
            return argument.partition("=")[2]
    raise AssertionError(f"{option} is not among {arguments}")


MODEL_OPTION = {"trl": "--model_name_or_path", "sharegpt": "--model_name_or_path", "verl": "model.path"}


def unquoted(layout: str, value: str) -> str:
    """A value as its trainer takes it; Hydra's quotes are off."""
    if layout != "verl":
        return value
    assert value[0] == value[-1] == "'", value
    return value[1:-1].replace(r"\'", "'")


@pytest.mark.parametrize("layout", TRAINERS)
@pytest.mark.parametrize(
    "changes, env, model",
    [
        ({}, {}, "Qwen/Qwen2.5-Math-1.5B"),
        ({"model": "my models/it's $(mine)}"}, {}, "my models/it's $(mine)}"),
        ({"model": "playground"}, {}, str(POLICY_FOLDER)),
        ({"revision": "v 1"}, {}, "/cache/download --quiet Qwen/Qwen2.5-Math-1.5B --revision v 1"),
        ({"revision": "v1"}, {"MODEL": "other/model"}, "other/model"),
    ],
    ids=["as it is", "odd characters", "playground", "a revision", "another"],
)
def test_the_model(place: Path, layout: str, changes: dict[str, Any], env: dict[str, str], model: str) -> None:
    arguments = called_with(place, layout, replace(RECIPE, **changes), **env)
    assert unquoted(layout, value_of(arguments, MODEL_OPTION[layout])) == model


@pytest.mark.parametrize(
    "layout, option, expected",
    [
        ("trl", "--dataset_name", "{place}"),
        ("sharegpt", "--dataset_dir", "{place}"),
        ("verl", "data.train_files", "{place}/train-01234567.parquet"),
    ],
)
def test_the_data_is_what_lies_beside_the_script(place: Path, layout: str, option: str, expected: str) -> None:
    arguments = called_with(place, layout, RECIPE)
    assert unquoted(layout, value_of(arguments, option)) == expected.format(place=place)


@pytest.mark.parametrize("layout", TRAINERS)
def test_further_options_come_last(place: Path, layout: str) -> None:
    assert called_with(place, layout, RECIPE, "--a", "b c")[-2:] == ["--a", "b c"]


@pytest.mark.parametrize(
    "layout, option", [("trl", "--max_length"), ("sharegpt", "--cutoff_len"), ("verl", "data.max_length")]
)
@pytest.mark.parametrize("max_tokens, limit", [(1000, "1024"), (1024, "1024"), (1025, "1280"), (9000, "9216")])
def test_no_example_is_cut(place: Path, layout: str, option: str, max_tokens: int, limit: str) -> None:
    arguments = called_with(place, layout, replace(RECIPE, max_tokens=max_tokens))
    assert value_of(arguments, option) == limit
    if layout == "verl":
        assert int(value_of(arguments, "data.max_token_len_per_gpu")) >= max_tokens


@pytest.mark.parametrize("num_gpus, accumulation, bf16", [(0, "256", "false"), (1, "256", "true"), (3, "86", "true")])
@pytest.mark.parametrize("layout", ["trl", "sharegpt"])
def test_the_global_batch_is_the_runs(place: Path, layout: str, num_gpus: int, accumulation: str, bf16: str) -> None:
    arguments = called_with(place, layout, RECIPE, num_gpus=num_gpus)
    assert value_of(arguments, "--per_device_train_batch_size") == "1"
    assert value_of(arguments, "--gradient_accumulation_steps") == accumulation
    assert value_of(arguments, "--bf16") == bf16


@pytest.mark.parametrize("num_rows, batch", [(200, "200"), (1000, "256")])
def test_verl_has_a_batch_in_small_data(place: Path, num_rows: int, batch: str) -> None:
    arguments = called_with(place, "verl", replace(RECIPE, num_rows=num_rows), num_gpus=4)
    assert value_of(arguments, "data.train_batch_size") == batch
    assert "--nproc_per_node=4" in arguments


@pytest.mark.parametrize(
    "layout, loss, option, remark",
    [
        ("trl", "dft", ["--loss_type", "dft"], False),
        ("trl", "sft", ["--loss_type", "nll"], False),
        ("trl", "other", ["--loss_type", "nll"], True),
        ("sharegpt", "dft", ["--use_dft_loss"], False),
        ("sharegpt", "sft", [], False),
        ("verl", "dft", [], True),
        ("verl", "sft", [], False),
    ],
)
def test_the_loss(place: Path, layout: str, loss: str, option: list[str], remark: bool) -> None:
    recipe = replace(RECIPE, train=RECIPE.train | {"loss": loss})
    arguments = called_with(place, layout, recipe)
    assert [a for a in arguments if a in ("--loss_type", "--use_dft_loss", "dft", "nll")] == option
    assert ("this is plain fine-tuning" in train_script(layout, recipe)) is remark


def test_the_end_of_turn_is_named_to_trl(place: Path) -> None:
    assert value_of(called_with(place, "trl", replace(RECIPE, end_of_turn="<|im_end|>")), "--eos_token") == "<|im_end|>"


def test_the_runs_template_goes_along(place: Path) -> None:
    template = "{% for m in messages %}{{ 'It''s' + m['content'] + \"\\n\" }}\n{% endfor %}"
    (place / TEMPLATE).write_text(template)
    recipe = replace(RECIPE, has_template=True)
    assert value_of(called_with(place, "trl", recipe), "--chat_template_path") == str(place / TEMPLATE)
    assert unquoted("verl", value_of(called_with(place, "verl", recipe), "model.custom_chat_template")) == template
    assert "put it into the model's folder first" in train_script("sharegpt", recipe)


def test_trl_itself_takes_the_options(place: Path) -> None:
    (place / TEMPLATE).write_text("{{ messages }}")
    recipe = replace(RECIPE, revision=None, has_template=True, end_of_turn="</s>")
    command, *arguments = called_with(place, "trl", recipe, "--max_steps", "2")
    assert command == "sft"
    script, training, model, _ = make_parser().parse_args_and_config(arguments, fail_with_unknown_args=True)
    assert script.dataset_name == str(place)
    assert model.model_name_or_path == RECIPE.model
    assert (training.learning_rate, training.warmup_steps, training.weight_decay) == (5e-5, 0.1, 0.01)
    assert (training.adam_beta1, training.adam_beta2, training.max_grad_norm) == (0.9, 0.95, 1.0)
    assert (training.max_length, training.loss_type, training.eos_token) == (1024, "dft", "</s>")
    assert (training.max_steps, training.gradient_accumulation_steps, training.bf16) == (2, 256, False)
