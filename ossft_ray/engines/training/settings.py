"""Which of DeepSpeed's own settings follow from `[train]`, and which the user may add through `[train.deepspeed]`."""

from typing import Any

from ossft_ray.common.errors import InputError
from ossft_ray.config import Train

# What the step loop decides: a second say in it would be silently wrong.
_OWNED = {
    "train_batch_size": "train.global_batch_size",
    "train_micro_batch_size_per_gpu": "train.micro_batch_tokens",
    "gradient_accumulation_steps": "train.micro_batch_tokens",
    "gradient_clipping": "train.max_grad_norm",
    "bf16": "train.precision",
    "fp16": "train.precision",
    "optimizer": "train.learning_rate, betas and weight_decay",
    "scheduler": "train.warmup_ratio",
    "zero_optimization.stage": "train.zero_stage",
}


def deepspeed_config(settings: Train, num_workers: int, load_universal: bool = False) -> dict[str, Any]:
    """DeepSpeed's configuration. Batch sizes are nominal: the step loop says itself where a step ends.

    Raises:
        InputError: `[train.deepspeed]` sets what another key of `[train]` decides, or an offload needs another stage.
    """
    bf16 = settings.precision == "bf16"
    zero: dict[str, Any] = {"stage": settings.zero_stage}
    if settings.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu"}
    if settings.offload == "all":
        zero["offload_param"] = {"device": "cpu"}
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "train_batch_size": num_workers,
        "gradient_clipping": settings.max_grad_norm,
        "bf16": {"enabled": bf16},
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,  # offloaded or not, the optimizer is the step loop's own
        "steps_per_print": 2**31,
    }
    if bf16 and settings.zero_stage > 0:  # stage 0 has no such thing
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    if load_universal:
        config["checkpoint"] = {"load_universal": True}
    return _merge(config, settings.deepspeed)


def check_deepspeed_settings(settings: Train) -> None:
    """Refuse what cannot be, before a model is loaded.

    Raises:
        InputError: see `deepspeed_config`.
    """
    for key, ours in _OWNED.items():
        section, _, name = key.rpartition(".")
        given = settings.deepspeed.get(section, {}) if section else settings.deepspeed
        if isinstance(given, dict) and name in given:
            raise InputError(f"[train.deepspeed] {key}: is decided by {ours}; leave it out here")
    if settings.offload != "none" and settings.zero_stage == 0:
        raise InputError('[train] offload: needs zero_stage 1, 2 or 3; set one, or offload = "none"')
    if settings.offload == "all" and settings.zero_stage != 3:
        raise InputError('[train] offload: "all" needs zero_stage 3; set it, or offload = "optimizer"')


def _merge(base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in more.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
