"""Training speed and memory against TRL: DFT on the same model, data and batch, one way after the other.

    python benchmarks/training.py [--steps 3] [--rounds 1] [--settings small large]

Four ways: TRL's `SFTTrainer(loss_type="dft")` unpacked and packed, and the engine of `ossft train` packed and unpacked,
each in a separate process, in float32 on the same processor cores. Every step takes all examples, so all ways do
exactly the same learning, whatever their order, and their losses must agree. A forward pass holds 1,024 tokens (in TRL
unpacked: 4 examples, padded to the longest).

Figures are medians over rounds: response tokens a second without the first step, and the peak of resident memory less
weights, gradients and optimizer state. The last line is a JSON object.
"""

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from against_trl import FIGURES, MODEL, Data, join_group, make_data, run_in_process, train_with_engine, train_with_trl

WAYS = ("trl", "trl_packed", "ours", "ours_unpacked")
MAX_LENGTH = 1024
LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class Setting:
    """A model by its vocabulary, and enough examples that a step is long enough to time."""

    vocabulary: int
    num_examples: int

    @property
    def data(self) -> Data:
        """Prompts around 60 tokens and responses around 250, some five times as long as others."""
        return make_data(self.num_examples, self.vocabulary, (60, 10, 200), (230, 20, MAX_LENGTH - 200))


SETTINGS = {"small": Setting(512, 48), "large": Setting(151_936, 8)}


def make_model(folder: Path, setting: Setting) -> None:
    """A random Qwen2 of 6 layers, 256 wide, with tied embeddings like the small Qwen2.5 models."""
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
    """The highest resident memory of this process since this object was created, in bytes."""

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
    """TRL's figures."""
    import torch
    import trl  # noqa: F401  # before memory is watched
    from transformers import AutoModelForCausalLM

    from ossft_ray.common import playground_paths

    AutoModelForCausalLM.from_pretrained(folder / MODEL, dtype=torch.float32)  # imports what it needs
    peak = Peak()
    model = AutoModelForCausalLM.from_pretrained(folder / MODEL, dtype=torch.float32)
    seconds, losses = train_with_trl(
        model,
        playground_paths.POLICY_FOLDER,
        setting.data,
        folder / "trl",
        packing=packed,
        max_length=MAX_LENGTH,
        per_device_train_batch_size=1 if packed else 4,
        num_train_epochs=num_steps,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="cosine",
        adam_beta2=0.95,
        weight_decay=0.01,
        max_grad_norm=1.0,
        gradient_checkpointing=False,
        use_cpu=True,
        bf16=False,
    )
    return _figures(setting, seconds, losses, peak, model)


def run_ours(folder: Path, setting: Setting, num_steps: int, packed: bool) -> dict[str, Any]:
    """The figures of the engine of `ossft train`, without Ray."""
    from ossft_ray.config import Policy, Train
    from ossft_ray.engines.training.policy_model import load_model

    join_group(folder)
    import deepspeed  # noqa: F401  # before memory is watched

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
    load_model(Policy(model=str(folder / MODEL)), settings)  # imports what it needs
    peak = Peak()
    steps, model = train_with_engine(folder, setting.data, settings)
    return _figures(setting, [step["seconds"] for step in steps], [step["loss"] for step in steps], peak, model)


def _figures(setting: Setting, seconds: list[float], losses: list[float], peak: Peak, model: Any) -> dict[str, Any]:
    num_tokens = sum(map(len, setting.data[1]))
    num_parameters = sum(parameter.numel() for parameter in model.parameters())  # tied ones once
    timed = seconds[1:] or seconds
    return {
        "tokens_per_second": num_tokens * len(timed) / sum(timed),
        "losses": losses,
        "peak_bytes": peak.highest - peak.before,
        "activation_bytes": peak.highest - peak.before - 16 * num_parameters,  # weights, gradients, two moments
    }


def compare(setting_name: str, num_steps: int, rounds: int) -> dict[str, Any]:
    """All ways on one setting, printed as a table."""
    setting = SETTINGS[setting_name]
    lengths = [len(response) for response in setting.data[1]]
    print(
        f"\nvocabulary {setting.vocabulary:,}: {len(lengths)} examples, {sum(lengths):,} response tokens "
        f"of {min(lengths)} to {max(lengths)} each\n"
        f"{'':14}  tokens/s  peak, MiB  of it activations  loss at each step",
        flush=True,
    )
    results: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as temporary:
        make_model(Path(temporary) / MODEL, setting)
        for way in WAYS * rounds:
            arguments = ["--way", way, "--settings", setting_name, "--steps", str(num_steps)]
            result = run_in_process(__file__, Path(temporary), arguments)
            if "failed" in result:
                raise SystemExit(f"{way} failed: {result['failed']}")
            results[way].append(result)
            losses = " ".join(f"{loss:.6f}" for loss in result["losses"])
            print(
                f"{way:14}  {result['tokens_per_second']:8.1f}  {result['peak_bytes'] / 2**20:9.0f}  "
                f"{result['activation_bytes'] / 2**20:17.0f}  {losses}",
                flush=True,
            )
    return _ratios(results, "" if setting_name == "small" else "_large_vocabulary")


def _ratios(results: dict[str, list[dict[str, Any]]], ending: str) -> dict[str, Any]:
    def median(way: str, key: str) -> float:
        return statistics.median(result[key] for result in results[way])

    ours = median("ours", "tokens_per_second")
    reference = results["trl"][0]["losses"]
    losses = [result["losses"] for of_way in results.values() for result in of_way]
    differences = [abs(a / b - 1) for each in losses for a, b in zip(each, reference, strict=True)]
    memory = median("ours", "activation_bytes") / median("trl_packed", "activation_bytes")
    return {
        f"tokens_per_second_ratio_to_trl{ending}": round(ours / median("trl", "tokens_per_second"), 3),
        f"tokens_per_second_ratio_to_trl_packed{ending}": round(ours / median("trl_packed", "tokens_per_second"), 3),
        f"activation_memory_ratio_to_trl{ending}": round(memory, 3),
        f"largest_relative_loss_difference{ending}": round(max(differences), 6),
        f"tokens_per_second{ending}": {way: round(median(way, "tokens_per_second"), 1) for way in WAYS},
        f"activation_mib{ending}": {way: round(median(way, "activation_bytes") / 2**20) for way in WAYS},
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
