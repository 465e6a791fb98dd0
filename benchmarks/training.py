"""Is training here faster and leaner than in TRL? DFT on the same model, data and batch, one way after the other.

    python benchmarks/training.py [--steps 3] [--rounds 1] [--settings small large]

Four ways: TRL's `SFTTrainer(loss_type="dft")` unpacked and packed, and the engine of `ossft train` packed and unpacked;
each in a process of its own, in float32 on the same processor cores. Every step takes all examples, so that all ways
do exactly the same learning, whatever their order, and their losses must agree. A way's forward pass holds 1,024
tokens (TRL unpacked: 4 examples, padded to the longest). Lengths are log-normal, as uneven as real solutions.

Figures are medians over rounds of response tokens a second, the first step left out, and of the peak of resident
memory less weights, gradients and optimizer state. The last line is a JSON object.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

WAYS = ("trl", "trl_packed", "ours", "ours_unpacked")
FIGURES, MODEL = "figures.json", "model"
MAX_LENGTH = 1024
LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class Setting:
    """A model by its vocabulary, and as many examples as make a step long enough to time."""

    vocabulary: int
    num_examples: int


SETTINGS = {"small": Setting(512, 48), "large": Setting(151_936, 8)}


def make_data(setting: Setting) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts around 60 tokens and responses around 250, some five times as long as others; random ids."""
    rng = np.random.default_rng(0)
    prompt_lengths = np.clip(rng.lognormal(np.log(60), 0.5, setting.num_examples), 10, 200).astype(int)
    lengths = np.clip(rng.lognormal(np.log(230), 0.7, setting.num_examples), 20, MAX_LENGTH - 200).astype(int)
    return tuple(
        [rng.integers(3, setting.vocabulary, size).tolist() for size in sizes] for sizes in (prompt_lengths, lengths)
    )


def make_model(folder: Path, setting: Setting) -> None:
    """A random Qwen2 of 6 layers, 256 wide, its embeddings tied as those of the small Qwen2.5 models are."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=setting.vocabulary,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)


class Peak:
    """The highest resident memory of this process since it began to be watched, in bytes."""

    def __init__(self) -> None:
        self.before = self.highest = self._resident()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.highest = max(self.highest, self._resident())
            time.sleep(0.002)

    @staticmethod
    def _resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def run_trl(folder: Path, setting: Setting, num_steps: int, packed: bool) -> dict[str, Any]:
    """Response tokens and seconds of each step, losses, memory."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from ossft_ray.common import playground_paths

    prompts, responses = make_data(setting)
    rows = [
        {"input_ids": prompt + response, "completion_mask": [0] * len(prompt) + [1] * len(response)}
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    AutoModelForCausalLM.from_pretrained(folder / MODEL, dtype=torch.float32)  # imports what it needs
    peak = Peak()
    model = AutoModelForCausalLM.from_pretrained(folder / MODEL, dtype=torch.float32)
    arguments = SFTConfig(
        output_dir=str(folder / "trl"),
        loss_type="dft",
        packing=packed,
        packing_strategy="bfd",
        max_length=MAX_LENGTH,
        per_device_train_batch_size=1 if packed else 4,
        gradient_accumulation_steps=10_000,  # as many as there are: a step is an epoch
        num_train_epochs=num_steps,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="cosine",
        adam_beta2=0.95,
        weight_decay=0.01,
        max_grad_norm=1.0,
        logging_steps=1,
        gradient_checkpointing=False,
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        completion_only_loss=True,
    )
    tokenizer = PreTrainedTokenizerFast.from_pretrained(playground_paths.POLICY_FOLDER)
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    trainer.add_callback(Clock())
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    seconds = [end - start for start, end in itertools.pairwise(ends)]
    return _figures(setting, seconds, losses, peak, model)


def run_ours(folder: Path, setting: Setting, num_steps: int, packed: bool) -> dict[str, Any]:
    """The same through the engine of `ossft train`, without Ray."""
    import torch

    from ossft_ray.config import Policy, Train
    from ossft_ray.engines.training.batches import Examples
    from ossft_ray.engines.training.policy_model import load_model
    from ossft_ray.engines.training.trainer import Trainer

    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "DS_ACCELERATOR": "cpu"}
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/group-{os.getpid()}", rank=0, world_size=1
    )
    import deepspeed  # noqa: F401  # before memory is watched, as TRL is

    settings = Train(
        loss="dft",
        learning_rate=LEARNING_RATE,
        global_batch_size=setting.num_examples,
        epochs=num_steps,
        max_length=MAX_LENGTH,
        precision="fp32",
        zero_stage=0,
        warmup_ratio=0.0,
        packing=packed,
        micro_batch_tokens=MAX_LENGTH if packed else 4 * MAX_LENGTH,
    )
    prompts, responses = make_data(setting)
    examples = Examples.build([str(index) for index in range(len(prompts))], prompts, responses)
    load_model(Policy(model=str(folder / MODEL)), settings)  # imports what it needs
    peak = Peak()
    trainer = Trainer(Policy(model=str(folder / MODEL)), settings, 0, examples)
    steps = list(trainer.steps())
    return _figures(
        setting, [step["seconds"] for step in steps], [step["loss"] for step in steps], peak, trainer.engine.module
    )


def _figures(setting: Setting, seconds: list[float], losses: list[float], peak: Peak, model: Any) -> dict[str, Any]:
    num_tokens = sum(len(response) for response in make_data(setting)[1])
    num_parameters = sum(parameter.numel() for parameter in model.parameters())  # tied ones once
    timed = seconds[1:] or seconds
    return {
        "tokens_per_second": num_tokens * len(timed) / sum(timed),
        "losses": losses,
        "peak_bytes": peak.highest - peak.before,
        "activation_bytes": peak.highest - peak.before - 16 * num_parameters,  # weights, gradients, two moments
    }


def run_way(way: str, folder: Path, setting_name: str, num_steps: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--way", way, "--folder", str(folder), "--settings", setting_name]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run([*command, "--steps", str(num_steps)], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{way} failed:\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads((folder / FIGURES).read_text())
    return found


def compare(setting_name: str, num_steps: int, rounds: int) -> dict[str, Any]:
    """All ways on one setting; the table on the way."""
    setting = SETTINGS[setting_name]
    prompts, responses = make_data(setting)
    print(
        f"\nvocabulary {setting.vocabulary:,}: {len(prompts)} examples, {sum(map(len, responses)):,} response tokens "
        f"of {min(map(len, responses))} to {max(map(len, responses))} each\n"
        f"{'':14}  tokens/s  peak, MiB  of it activations  loss at each step",
        flush=True,
    )
    results: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as temporary:
        make_model(Path(temporary) / MODEL, setting)
        for _ in range(rounds):
            for way in WAYS:
                result = run_way(way, Path(temporary), setting_name, num_steps)
                results[way].append(result)
                losses = " ".join(f"{loss:.6f}" for loss in result["losses"])
                print(
                    f"{way:14}  {result['tokens_per_second']:8.1f}  {result['peak_bytes'] / 2**20:9.0f}  "
                    f"{result['activation_bytes'] / 2**20:17.0f}  {losses}",
                    flush=True,
                )

    def middle(way: str, key: str) -> float:
        return statistics.median(result[key] for result in results[way])

    ours = middle("ours", "tokens_per_second")
    ending = "" if setting_name == "small" else "_large_vocabulary"
    reference = results["trl"][0]["losses"]
    differences = [
        abs(loss / expected - 1)
        for way in WAYS
        for result in results[way]
        for loss, expected in zip(result["losses"], reference, strict=True)
    ]
    return {
        f"tokens_per_second_ratio_to_trl{ending}": round(ours / middle("trl", "tokens_per_second"), 3),
        f"tokens_per_second_ratio_to_trl_packed{ending}": round(ours / middle("trl_packed", "tokens_per_second"), 3),
        f"activation_memory_ratio_to_trl{ending}": round(
            middle("ours", "activation_bytes") / middle("trl_packed", "activation_bytes"), 3
        ),
        f"largest_relative_loss_difference{ending}": round(max(differences), 6),
        f"tokens_per_second{ending}": {way: round(middle(way, "tokens_per_second"), 1) for way in WAYS},
        f"activation_mib{ending}": {way: round(middle(way, "activation_bytes") / 2**20) for way in WAYS},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="training against TRL")
    parser.add_argument("--steps", type=int, default=3, help="optimiser steps, each over all examples")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way is not None:
        run = run_trl if arguments.way.startswith("trl") else run_ours
        packed = arguments.way in ("trl_packed", "ours")
        figures = run(arguments.folder, SETTINGS[arguments.settings[0]], arguments.steps, packed)
        (arguments.folder / FIGURES).write_text(json.dumps(figures))
        return
    figures = {}
    for name in arguments.settings:
        figures |= compare(name, arguments.steps, arguments.rounds)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
