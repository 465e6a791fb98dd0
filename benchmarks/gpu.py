"""One GPU: training against TRL with MFU, and rewriting against raw vLLM, on the shapes of Qwen2.5.

    python benchmarks/gpu.py [--shapes 0.5b 1.5b 7b] [--steps 6] [--skip-rollout]
    python benchmarks/gpu.py --shapes tiny --steps 2 --skip-rollout    # on any machine: shows that it starts

Random weights in the shapes of Qwen2.5 0.5B, 1.5B and 7B, bfloat16, DFT, log-normal lengths, one process for each way.
A shape whose weights, gradients and optimizer state do not fit the GPU trains adapters (LoRA) in both ways. Tokens a
second are those of responses; MFU is that of `engines/training/flops.py`, without adapters. What this machine cannot do
is skipped with a reason. The last line is a JSON object.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from against_trl import FIGURES, MODEL, Data, join_group, make_data, run_in_process, train_with_engine, train_with_trl

WAYS = ("ours", "trl_packed")
MAX_LENGTH, NUM_EXAMPLES = 2048, 64
_QWEN = {"vocab_size": 151_936, "max_position_embeddings": 4096}
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "vocab_size": 512, "max_position_embeddings": 4096, "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True,
    },
    "0.5b": _QWEN | {
        "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "tie_word_embeddings": True,
    },
    "1.5b": _QWEN | {
        "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2, "tie_word_embeddings": True,
    },
    "7b": _QWEN | {
        "vocab_size": 152_064, "hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "tie_word_embeddings": False,
    },
}  # fmt: skip


def shape_data(shape: str) -> Data:
    """Prompts around 90 tokens, responses around 400."""
    num_examples = 8 if shape == "tiny" else NUM_EXAMPLES
    return make_data(num_examples, SHAPES[shape]["vocab_size"], (90, 10, 400), (400, 20, MAX_LENGTH - 400))


def make_model(folder: Path, shape: str) -> int:
    """Random weights with the playground's tokenizer, which rollout needs; returns the number of parameters."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from ossft_ray.common import playground_paths

    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = Qwen2ForCausalLM(Qwen2Config(**SHAPES[shape])).to(torch.bfloat16)
    model.save_pretrained(folder)
    for file in playground_paths.POLICY_FOLDER.iterdir():
        if file.suffix in (".json", ".jinja") and file.name != "config.json":
            shutil.copy(file, folder)
    return int(model.num_parameters())


def run_ours(folder: Path, shape: str, num_steps: int, lora: bool) -> dict[str, Any]:
    """The figures of the engine of `ossft train`, without Ray."""
    from ossft_ray.config import Lora, Train

    data = shape_data(shape)
    settings = Train(
        loss="dft",
        global_batch_size=len(data[0]),
        epochs=num_steps,
        max_length=MAX_LENGTH,
        micro_batch_tokens=4 * MAX_LENGTH,
        precision="bf16",
        zero_stage=0 if not lora else 2,
        activation_checkpointing=shape == "7b",
        lora=Lora() if lora else None,
    )
    join_group(folder)
    steps, _ = train_with_engine(folder, data, settings)
    timed = steps[2:] or steps
    found = {
        "tokens_per_second": sum(step["num_tokens"] for step in timed) / sum(step["seconds"] for step in timed),
        "peak_gib": steps[-1]["peak_memory_bytes"] / 2**30,
        "loss": steps[0]["loss"],
    }
    if "model_flops_utilization" in steps[-1]:
        found["mfu"] = sum(step["model_flops_utilization"] for step in timed) / len(timed)
    return found


def run_trl(folder: Path, shape: str, num_steps: int, lora: bool) -> dict[str, Any]:
    """TRL's figures."""
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM

    data, on_gpu = shape_data(shape), torch.cuda.is_available()
    seconds, losses = train_with_trl(
        AutoModelForCausalLM.from_pretrained(folder / MODEL, dtype=torch.bfloat16),
        folder / MODEL,
        data,
        folder / "trl",
        packing=True,
        max_length=MAX_LENGTH,
        per_device_train_batch_size=4 if on_gpu else 1,
        num_train_epochs=num_steps,
        gradient_checkpointing=shape == "7b",
        bf16=True,
        use_cpu=not on_gpu,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear") if lora else None,
    )
    timed = seconds[2:] or seconds
    return {
        "tokens_per_second": sum(map(len, data[1])) * len(timed) / sum(timed),
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if on_gpu else 0.0,
        "loss": losses[0],
    }


def rollout(folder: Path) -> dict[str, Any]:
    """benchmarks/rollout.py on this model: the speed of rewriting relative to raw vLLM."""
    program = Path(__file__).with_name("rollout.py")
    command = [sys.executable, str(program), "--model", str(folder / MODEL), "--requests", "1024", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no reason given"])[-1]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def measure(shape: str, num_steps: int, with_rollout: bool) -> dict[str, Any]:
    """All ways on one shape."""
    import torch

    on_gpu = torch.cuda.is_available()
    if not on_gpu and shape != "tiny":
        return {"skipped": "no GPU here"}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        num_parameters = make_model(folder / MODEL, shape)
        if on_gpu:
            torch.cuda.empty_cache()
        memory = torch.cuda.get_device_properties(0).total_memory if on_gpu else 2**40
        lora = 18 * num_parameters > 0.8 * memory
        figures: dict[str, Any] = {"parameters": num_parameters, "lora": lora}
        for way in WAYS:
            arguments = ["--way", way, "--shapes", shape, "--steps", str(num_steps), *["--lora"] * lora]
            figures[way] = run_in_process(__file__, folder, arguments)
            print(f"{shape:5} {way:11} {json.dumps(figures[way])}", flush=True)
        if with_rollout:
            figures["rollout"] = rollout(folder)
            print(f"{shape:5} {'rollout':11} {json.dumps(figures['rollout'])}", flush=True)
    speeds = [figures[way].get("tokens_per_second") for way in WAYS]
    if all(speeds):
        figures["tokens_per_second_ratio_to_trl_packed"] = round(speeds[0] / speeds[1], 3)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description="training and rewriting on one GPU")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["0.5b", "1.5b", "7b"])
    parser.add_argument("--steps", type=int, default=6, help="optimiser steps; the first two are not timed")
    parser.add_argument("--skip-rollout", action="store_true")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--lora", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way is not None:
        run = run_ours if arguments.way == "ours" else run_trl
        figures = run(arguments.folder, arguments.shapes[0], arguments.steps, arguments.lora)
        (arguments.folder / FIGURES).write_text(json.dumps(figures))
        return
    results = {shape: measure(shape, arguments.steps, not arguments.skip_rollout) for shape in arguments.shapes}
    for shape, result in results.items():
        if "skipped" in result:
            print(f"{shape}: skipped: {result['skipped']}")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
