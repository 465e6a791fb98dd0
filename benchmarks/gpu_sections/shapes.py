"""The shapes of Qwen2.5 with random weights, data of realistic lengths, and how a GPU or a CPU is timed."""

import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from against_trl import Data, make_data

MAX_LENGTH = 2048
ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
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
    num_examples = 8 if shape == "tiny" else 64
    return make_data(num_examples, SHAPES[shape]["vocab_size"], (90, 10, 400), (400, 20, MAX_LENGTH - 400))


def make_model(folder: Path, shape: str) -> int:
    """Random bfloat16 weights with the playground's tokenizer, which rollout needs; returns how many there are."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from ossft_ray.common import playground_paths

    torch.manual_seed(0)
    previous = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    with DEVICE:
        model = Qwen2ForCausalLM(Qwen2Config(**SHAPES[shape]))
    torch.set_default_dtype(previous)
    model.save_pretrained(folder)
    for file in playground_paths.POLICY_FOLDER.iterdir():
        if file.suffix in (".json", ".jinja") and file.name != "config.json":
            shutil.copy(file, folder)
    return int(model.num_parameters())


def milliseconds(work: Callable[[], Any], repeats: int = 8) -> float:
    """The median time of a call, after two that are not timed."""
    times = []
    for number in range(2 + repeats):
        if ON_GPU:
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            began.record()
            work()
            ended.record()
            torch.cuda.synchronize()
            elapsed = began.elapsed_time(ended)
        else:
            start = time.perf_counter()
            work()
            elapsed = 1000 * (time.perf_counter() - start)
        if number >= 2:
            times.append(elapsed)
    return statistics.median(times)


def peak_gib(work: Callable[[], Any]) -> float:
    """Memory that a call takes in addition to what was allocated before it; 0 without a GPU."""
    if not ON_GPU:
        work()
        return 0.0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**30
