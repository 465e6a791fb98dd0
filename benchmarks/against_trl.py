"""DFT training with TRL's `SFTTrainer` and with the engine of `ossft train` on the same data, for two benchmarks.

Each measurement runs in a separate process, which writes its figures to a file.
"""

import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

Data = tuple[list[list[int]], list[list[int]]]  # token ids of prompts and of responses
FIGURES, MODEL = "figures.json", "model"


def make_data(
    num_examples: int, vocabulary: int, prompts: tuple[int, int, int], responses: tuple[int, int, int]
) -> Data:
    """Random ids. Lengths are log-normal, as uneven as real solutions; each triple is (median, least, most) tokens."""
    rng = np.random.default_rng(0)
    sizes = [
        np.clip(rng.lognormal(np.log(median), deviation, num_examples), least, most).astype(int)
        for (median, least, most), deviation in ((prompts, 0.5), (responses, 0.7))
    ]
    prompt_ids, response_ids = ([rng.integers(3, vocabulary, size).tolist() for size in each] for each in sizes)
    return prompt_ids, response_ids


def train_with_trl(
    model: Any, tokenizer: Path, data: Data, output: Path, **settings: Any
) -> tuple[list[float], list[float]]:
    """Seconds and loss of each step of TRL's DFT; each step takes all examples. `peft_config` is the trainer's."""
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    rows = [
        {"input_ids": prompt + response, "completion_mask": [0] * len(prompt) + [1] * len(response)}
        for prompt, response in zip(*data, strict=True)
    ]
    peft_config = settings.pop("peft_config", None)
    arguments = SFTConfig(
        output_dir=str(output),
        loss_type="dft",
        completion_only_loss=True,
        packing_strategy="bfd",
        gradient_accumulation_steps=10_000,  # more than there are: a step is an epoch
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        **settings,
    )
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=PreTrainedTokenizerFast.from_pretrained(tokenizer),
        peft_config=peft_config,
        callbacks=[Clock()],
    )
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return [end - start for start, end in itertools.pairwise(ends)], losses


def join_group(folder: Path) -> None:
    """A process group of this process alone, which the engine needs."""
    import torch

    on_gpu = torch.cuda.is_available()
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"} | ({} if on_gpu else {"DS_ACCELERATOR": "cpu"})
    group = f"file://{folder}/group-{os.getpid()}"
    torch.distributed.init_process_group("nccl" if on_gpu else "gloo", init_method=group, rank=0, world_size=1)


def train_with_engine(folder: Path, data: Data, settings: Any) -> tuple[list[dict[str, float]], Any]:
    """The metrics of each step of the engine on the model in `folder`, without Ray; and the model."""
    from ossft_ray.config import Policy
    from ossft_ray.engines.training.batches import Examples, TokenizedExample
    from ossft_ray.engines.training.trainer import Trainer

    examples = Examples.build(list(map(TokenizedExample, map(str, range(len(data[0]))), *data)))
    trainer = Trainer(Policy(model=str(folder / MODEL)), settings, 0, examples)
    return list(trainer.steps()), trainer.engine.module


def run_in_process(program: str, folder: Path, arguments: list[str]) -> dict[str, Any]:
    """Let `program` measure in a new process; returns its figures, or the last line of its error as `failed`."""
    command = [sys.executable, program, "--folder", str(folder), *arguments]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no reason given"])[-1]}
    figures: dict[str, Any] = json.loads((folder / FIGURES).read_text())
    return figures
