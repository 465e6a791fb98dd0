"""DeepSpeed: its configuration from `[train]`, and what training asks of it. No other module imports it."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ossft_ray.common.errors import InputError
from ossft_ray.config import Train

# DeepSpeed's settings that follow from other keys: a second value would be silently wrong.
_DECIDED_BY = {
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


def check_deepspeed_settings(settings: Train) -> None:
    """Raise InputError if `[train.deepspeed]` sets what another key decides, or a key needs another ZeRO stage."""
    for key, ours in _DECIDED_BY.items():
        section, _, name = key.rpartition(".")
        given = settings.deepspeed.get(section, {}) if section else settings.deepspeed
        if isinstance(given, dict) and name in given:
            raise InputError(f"[train.deepspeed] {key}: is decided by {ours}; leave it out here")
    if settings.master_weights == "bf16" and settings.precision != "bf16":
        raise InputError('[train] master_weights: "bf16" needs precision = "bf16"; set it, or leave master_weights out')
    if settings.master_weights == "bf16" and settings.zero_stage in (0, 1):  # DeepSpeed would keep float32
        raise InputError('[train] master_weights: "bf16" needs zero_stage 2 or 3; set one')
    if settings.master_weights == "bf16" and settings.offload != "none":
        raise InputError('[train] master_weights: "bf16" cannot be offloaded; set offload = "none"')
    if settings.offload != "none" and settings.zero_stage == 0:
        raise InputError('[train] offload: needs zero_stage 1, 2 or 3; set one, or offload = "none"')
    if settings.compile is True and settings.zero_stage == 3:
        raise InputError("[train] compile: layers that ZeRO stage 3 shards cannot be compiled; set another zero_stage")
    if settings.offload == "all" and settings.zero_stage != 3:
        raise InputError('[train] offload: "all" needs zero_stage 3; set it, or offload = "optimizer"')


def deepspeed_config(settings: Train, num_workers: int, load_universal: bool = False) -> dict[str, Any]:
    """DeepSpeed's configuration. Its batch sizes are nominal: the step loop itself marks where a step ends."""
    bf16 = settings.precision == "bf16"
    zero: dict[str, Any] = {"stage": settings.engine_stage}
    if num_workers > 1 and zero["stage"] > 0 and torch.cuda.is_available():
        zero["overlap_comm"] = True
    offloaded = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if settings.offload != "none":
        zero["offload_optimizer"] = offloaded
    if settings.offload == "all":
        zero["offload_param"] = offloaded
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "train_batch_size": num_workers,
        "gradient_clipping": settings.max_grad_norm,
        "bf16": {"enabled": bf16, **_master_weights(settings)},
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,  # offloaded or not, the optimizer is torch's
        "steps_per_print": 2**31,
    }
    if bf16:
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    if load_universal:
        config["checkpoint"] = {"load_universal": True}
    return _merge(config, settings.deepspeed)


def _master_weights(settings: Train) -> dict[str, bool]:
    """Where AdamW works: on float32 copies or, as in the authors' trainer, on the bf16 weights themselves."""
    is_half = settings.master_weights == "bf16"
    return {"bf16_master_weights_and_grads": True, "bf16_optimizer_states": True} if is_half else {}


def _merge(base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in more.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _joined_deepspeed() -> Any:
    """DeepSpeed, in the process group that the caller has made."""
    import deepspeed

    # it would compile a shared-memory all-reduce, which only its inference uses
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(deepspeed.accelerator.get_accelerator().communication_backend_name())
    return deepspeed


@contextmanager
def sharded_loading(settings: Train, fp32_buffers: Sequence[str]) -> Iterator[None]:
    """For ZeRO stage 3: shard each weight of a transformers model loaded in this context as soon as it is created.

    Every worker must load the same model. No worker then ever holds the whole model. `fp32_buffers` names the buffers
    that stay in float32, because DeepSpeed would round them all to the training dtype.
    """
    from transformers.integrations import HfDeepSpeedConfig

    _joined_deepspeed()
    config = deepspeed_config(settings, torch.distributed.get_world_size())
    config["data_types"] = config.get("data_types", {}) | {"keep_in_fp32_modules": list(fp32_buffers)}
    marker = HfDeepSpeedConfig(config)
    yield
    del marker  # transformers shards models while this object exists


def is_sharded(parameter: torch.nn.Parameter) -> bool:
    """Whether ZeRO-3 has sharded this parameter, which is then empty."""
    return hasattr(parameter, "ds_id")


def gathered(parameters: Iterable[torch.nn.Parameter], modified: bool = False) -> AbstractContextManager[None]:
    """A context in which sharded parameters are whole; a collective call. `modified` keeps what worker 0 writes there.

    Other parameters are left as they are.
    """
    sharded = list(filter(is_sharded, parameters))
    if not sharded:
        return nullcontext()
    import deepspeed

    context: AbstractContextManager[None] = deepspeed.zero.GatheredParameters(sharded, 0 if modified else None)
    return context


@contextmanager
def gathered_forward(model: torch.nn.Module) -> Iterator[None]:
    """Gather sharded weights around each module's forward pass, for a model that has no engine yet.

    Every worker must pass the same tokens through the model.
    """
    contexts: dict[torch.nn.Module, AbstractContextManager[None]] = {}

    def gather(module: torch.nn.Module, _: Any) -> None:
        contexts[module] = gathered(module.parameters(recurse=False))
        contexts[module].__enter__()

    def release(module: torch.nn.Module, *_: Any) -> None:
        contexts.pop(module).__exit__(None, None, None)

    owners = [module for module in model.modules() if any(map(is_sharded, module.parameters(recurse=False)))]
    handles = [module.register_forward_pre_hook(gather) for module in owners]
    handles += [module.register_forward_hook(release, always_call=True) for module in owners]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _prepare_experts(model: torch.nn.Module, stage: int) -> None:
    """Let ZeRO-3 gather a layer's experts together, in a mixture of experts in which each is a separate module.

    Workers whose tokens reach different experts would otherwise wait for each other forever. In stages 1 and 2 they
    would wait for gradients, and DeepSpeed has no remedy. Experts stored as slices of one weight need nothing of this.

    Raises:
        InputError: the stage is 1 or 2.
    """
    blocks = {
        type(module)
        for module in model.modules()
        if any("expert" in name and isinstance(child, torch.nn.ModuleList) for name, child in module.named_children())
    }
    if blocks and stage == 3:
        import deepspeed

        deepspeed.utils.set_z3_leaf_modules(model, list(blocks))
    elif blocks and stage > 0 and torch.distributed.get_world_size() > 1:
        raise InputError(
            "[train] zero_stage: the experts of this model are modules of their own, which only zero_stage 3 trains "
            "with several workers; set it"
        )


def shard_for_training(module: torch.nn.Module, settings: Train, load_universal: bool) -> Any:
    """DeepSpeed's engine with the module and an optimizer, whose learning rate the step loop sets at each step."""
    deepspeed = _joined_deepspeed()
    num_workers = torch.distributed.get_world_size()
    config = deepspeed_config(settings, num_workers, load_universal)
    _prepare_experts(module, config["zero_optimization"]["stage"])
    # for an optimizer named in its config, DeepSpeed would compile C++
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0, betas=settings.betas, weight_decay=settings.weight_decay, fused=True)
    engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config)
    if num_workers == 1 and isinstance(engine.optimizer, torch.optim.Optimizer):
        engine.enable_backward_allreduce = False  # it would copy all gradients to itself
    engine.train()
    return engine


def shard_for_inference(module: torch.nn.Module, settings: Train) -> Any:
    """DeepSpeed's engine in ZeRO stage 3: the module's weights sharded over the workers, and no optimizer."""
    deepspeed = _joined_deepspeed()
    config = deepspeed_config(settings, torch.distributed.get_world_size())
    config["zero_optimization"].pop("offload_optimizer", None)
    _prepare_experts(module, stage=3)
    engine, *_ = deepspeed.initialize(model=module, config=config)
    return engine


def worker_device() -> str:
    """Where DeepSpeed puts this worker's tensors."""
    from deepspeed.accelerator import get_accelerator

    return str(get_accelerator().current_device_name())


def take_step(engine: Any, learning_rate: float) -> float:
    """Clip the gradient and step; returns the norm of the global batch's gradient before clipping."""
    for group in engine.optimizer.param_groups:
        group["lr"] = learning_rate
    norm: Any = None
    if isinstance(engine.optimizer, torch.optim.Optimizer):  # ZeRO stage 0 in fp32, which stores no norm
        grads = [parameter.grad for parameter in engine.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads)
    engine.step()
    return float(engine.get_global_grad_norm() if norm is None else norm)


def gather_weights(model: Any, rank: int) -> dict[str, Tensor]:
    """All weights in main memory on worker 0, gathered one parameter at a time; an empty dict on the others.

    Tied weights are one tensor under two names, as in the model, so that they are written once.
    """
    weights: dict[str, Tensor] = {}
    first_names: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        first = first_names.setdefault(id(tensor), name)
        if first != name:
            if rank == 0:
                weights[name] = weights[first]
            continue
        with gathered([tensor]):
            if rank == 0:
                weights[name] = tensor.detach().cpu().clone()
    return weights
