"""Training: our trainer and TRL's with the same attention on the same model, and saving and resuming."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from against_trl import MODEL, join_group, train_with_trl
from gpu_sections.shapes import MAX_LENGTH, ON_GPU, shape_data

from ossft_ray.config import Lora, Policy, Train

Row = dict[str, Any]


def settings_for(shape: str, num_steps: int, lora: bool, **more: Any) -> Train:
    return Train(
        loss="dft",
        global_batch_size=len(shape_data(shape)[0]),
        epochs=num_steps,
        max_length=MAX_LENGTH,
        precision="bf16",
        zero_stage=0,
        lora=Lora() if lora else None,
        **more,
    )


def make_trainer(folder: Path, shape: str, settings: Train) -> Any:
    from ossft_ray.engines.training.batches import Examples, TokenizedExample
    from ossft_ray.engines.training.trainer import Trainer

    data = shape_data(shape)
    examples = Examples.build(list(map(TokenizedExample, map(str, range(len(data[0]))), *data)))
    return Trainer(Policy(model=str(folder / MODEL)), settings, 0, examples)


def ours(folder: Path, shape: str, num_steps: int, lora: bool, profile: str = "", **more: Any) -> Row:
    """The figures of the engine of `ossft train`, without Ray; `profile`: a file for the last step's kernels."""
    began = time.perf_counter()
    join_group(folder)
    settings = settings_for(shape, num_steps, lora, **more)
    trainer = make_trainer(folder, shape, settings)
    loading, steps = time.perf_counter() - began, []
    iterator = trainer.steps()
    for number in range(num_steps):
        if profile and number == num_steps - 1:
            with Path(profile).open("a") as file:
                print(_profile(lambda: steps.append(next(iterator))), file=file)
        else:
            steps.append(next(iterator))
    # the first steps compile, and learn how many tokens a pass may have
    timed = steps[4 if num_steps > 6 else 2 : num_steps - bool(profile)] or steps
    found: Row = {
        "tokens/s": round(sum(step["num_tokens"] for step in timed) / sum(step["seconds"] for step in timed)),
        "peak GiB": round(steps[-1]["peak_memory_bytes"] / 2**30, 1),
        "estimate GiB": round(estimated_memory(folder, settings, steps[-1]["pass_tokens"]) / 2**30, 1),
        "tokens a pass": steps[-1]["pass_tokens"],
        "loss": f"{steps[0]['loss']:.3g}",
        "loading s": round(loading, 1),
        "first step s": round(steps[0]["seconds"], 1),
    }
    if "model_flops_utilization" in steps[-1]:
        found["MFU"] = round(sum(step["model_flops_utilization"] for step in timed) / len(timed), 3)
    return found


def estimated_memory(folder: Path, settings: Train, pass_tokens: float) -> int:
    """What `ossft check` would count for one GPU with passes of this size."""
    from ossft_ray.engines.training.memory import training_memory
    from ossft_ray.engines.training.policy_model import count_parameters

    of_this_size = settings.model_copy(update={"micro_batch_tokens": int(pass_tokens)})
    return training_memory(count_parameters(Policy(model=str(folder / MODEL)), of_this_size), of_this_size, 1).gpu


def _profile(work: Any) -> str:
    from torch.profiler import ProfilerActivity

    kinds = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * ON_GPU]
    with torch.profiler.profile(activities=kinds) as profiler:
        work()
    order = "self_device_time_total" if ON_GPU else "self_cpu_time_total"
    return str(profiler.key_averages().table(sort_by=order, row_limit=25, max_name_column_width=70))


def trl(folder: Path, shape: str, num_steps: int, lora: bool, pass_tokens: int, wide: bool) -> Row:
    """TRL's figures, with packed rows and our attention; `wide` keeps its weights and Adam's moments in float32."""
    from peft import LoraConfig
    from transformers import AttentionInterface, AutoModelForCausalLM

    from ossft_ray.engines.packed_attention import packed_attention

    def by_trls_names(*tensors: Any, cu_seq_lens_q: Any = None, max_length_q: Any = None, **rest: Any) -> Any:
        return packed_attention(*tensors, cu_seqlens=cu_seq_lens_q, max_seqlen=max_length_q, **rest)

    AttentionInterface.register("packed_for_trl", by_trls_names)
    data = shape_data(shape)
    dtype = torch.float32 if wide and not lora else torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(
        folder / MODEL, dtype=dtype, attn_implementation="packed_for_trl" if ON_GPU else "sdpa"
    )
    seconds, losses = train_with_trl(
        model,
        folder / MODEL,
        data,
        folder / "trl",
        packing=True,
        max_length=MAX_LENGTH,
        per_device_train_batch_size=max(1, pass_tokens // MAX_LENGTH),
        num_train_epochs=num_steps,
        gradient_checkpointing=False,
        bf16=True,
        use_cpu=not ON_GPU,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear") if lora else None,
    )
    timed = seconds[2:] or seconds
    return {
        "tokens/s": round(sum(map(len, data[1])) * len(timed) / sum(timed)),
        "peak GiB": round(torch.cuda.max_memory_allocated() / 2**30, 1) if ON_GPU else 0.0,
        "loss": f"{losses[0]:.3g}",
    }


def save_and_resume(folder: Path, shape: str) -> Row:
    """Two steps, a checkpoint, the next step of this trainer and of a new one that resumes, and the export."""
    join_group(folder)
    settings, state = settings_for(shape, 4, lora=False), folder / "state"
    found = _train_and_save(folder, shape, settings, state)
    if ON_GPU:
        torch.cuda.empty_cache()
    found["checkpoint GiB"] = round(sum(file.stat().st_size for file in state.rglob("*") if file.is_file()) / 2**30, 1)
    return found | _resume(folder, shape, settings, state)


def _train_and_save(folder: Path, shape: str, settings: Train, state: Path) -> Row:
    from ossft_ray.engines.training.saving import export_model, save_state
    from ossft_ray.policy.chat import load_chat

    trainer = make_trainer(folder, shape, settings)
    steps = trainer.steps()
    next(steps), next(steps)
    seconds = {"save s": _seconds(lambda: save_state(trainer, state))}
    loss = next(steps)["loss"]
    chat = load_chat(Policy(model=str(folder / MODEL)))
    seconds["export s"] = _seconds(lambda: export_model(trainer, folder / "exported", chat))
    return seconds | {"loss of step 3": f"{loss:.6g}"}


def _resume(folder: Path, shape: str, settings: Train, state: Path) -> Row:
    from ossft_ray.engines.training.saving import load_state

    trainer = make_trainer(folder, shape, settings)
    seconds = _seconds(lambda: load_state(trainer, state))
    return {"resume s": seconds, "loss of step 3, resumed": f"{next(trainer.steps())['loss']:.6g}"}


def _seconds(work: Any) -> float:
    began = time.perf_counter()
    work()
    return round(time.perf_counter() - began, 1)


def run(way: str, folder: Path, arguments: str) -> Row:
    """One measurement; `arguments` is a JSON object."""
    ways = {"ours": ours, "trl": trl, "save": save_and_resume}
    return ways[way](folder, **json.loads(arguments))
