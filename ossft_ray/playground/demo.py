"""`ossft demo`: the whole job on the playground, with no GPU and no network."""

import json
import tomllib
from pathlib import Path
from typing import Any

from ossft_ray.common.errors import InputError
from ossft_ray.config import Experiment, resolve
from ossft_ray.playground.arithmetic import training_problems

NUM_PROBLEMS = 960
DATA, EXPERIMENT = "problems.jsonl", "experiment.toml"

# The paper's settings but for the toy's size: short responses, small batches, a larger learning rate, more epochs.
SETTINGS = """\
# The playground demo. Run it again, or change it and run: ossft run --config {experiment}

[run]
output = {output}
seed = 0

[policy]
model = "playground"

[data]
path = {data}
columns = {{ question = "question", expert_solution = "expert_solution" }}

[rewrite]
keep_attempts = true
self_alignment = {{ num_samples = 8, max_tokens = 128 }}
guided_alignment = {{ num_samples = 4, max_tokens = 128 }}

[train]
loss = "dft"
learning_rate = 2e-4
epochs = 3
global_batch_size = 32
max_length = 512
precision = "fp32"

[evaluate]
benchmarks = ["playground/level1", "playground/level2", "playground/level3", "playground/level4", "playground/level5"]
num_samples = 8
max_tokens = 128
"""


def write_demo(output: str) -> Experiment:
    """Write the demo's problems and its experiment file into `output`, where they are not there yet.

    Raises:
        InputError: `output` cannot be written to.
    """
    folder = Path(output)
    data, experiment = folder / DATA, folder / EXPERIMENT
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not data.exists():
            data.write_text("".join(json.dumps(row) + "\n" for row in training_problems(NUM_PROBLEMS)))
        if not experiment.exists():
            experiment.write_text(
                SETTINGS.format(experiment=experiment, output=json.dumps(output), data=json.dumps(str(data)))
            )
    except OSError as error:
        raise InputError(f"--output {output}: cannot be written to: {error.strerror}") from error
    settings: dict[str, Any] = tomllib.loads(experiment.read_text())
    return resolve(settings, source=str(experiment))
