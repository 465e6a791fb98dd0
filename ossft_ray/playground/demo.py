"""The experiment of `ossft demo`: the whole job on the playground, without a GPU or a network."""

import json
import tomllib
from pathlib import Path

from ossft_ray.common.errors import InputError, brief
from ossft_ray.config import Experiment, resolve
from ossft_ray.playground.arithmetic import training_problems

_TEMPLATE, _TEMPLATE_OUTPUT = Path(__file__).with_name("demo.toml"), "runs/demo"


def write_demo(output: str, num_problems: int) -> Experiment:
    """Write the demo's problems and its experiment file into `output`, unless they are there already.

    Raises:
        InputError: `output` cannot be written to.
    """
    data, experiment = Path(output, "problems.jsonl"), Path(output, "experiment.toml")
    try:
        Path(output).mkdir(parents=True, exist_ok=True)
        if not data.exists():
            data.write_text("".join(json.dumps(row) + "\n" for row in training_problems(num_problems)))
        if not experiment.exists():
            escaped = json.dumps(str(Path(output)))[1:-1]
            experiment.write_text(_TEMPLATE.read_text().replace(_TEMPLATE_OUTPUT, escaped))
    except OSError as error:
        raise InputError(f"--output {output}: cannot be written to: {brief(error)}") from error
    return resolve(tomllib.loads(experiment.read_text()), source=str(experiment))
