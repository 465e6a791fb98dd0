"""The memory that training needs, by arithmetic from the model's sizes.

It counts weights, gradients, AdamW's float32 weights and two moments, the layer that ZeRO-3 gathers, the activations of
one forward pass, and the logits and the output head's gradient within the loss. It leaves out communication buffers,
fragmentation and CUDA itself. Activations are an estimate: on an H100 it predicts 71.5 GiB in all, and training took
67.2 GiB. So it refuses only training whose weights, gradients and optimizer state do not fit.
"""

from typing import NamedTuple

from rich.filesize import decimal

from ossft_ray.common.errors import InputError
from ossft_ray.config import Train
from ossft_ray.engines.token_loss import CHUNK_ELEMENTS

_USABLE = 0.9  # of a GPU's memory
_ROOM_TO_GROW = 4  # times the tokens of the first pass


class ModelCounts(NamedTuple):
    """Numbers of parameters, and the widths of activations."""

    parameters: int  # tied weights once, adapters included
    trained: int
    largest_module: int  # parameters that ZeRO-3 gathers at once
    linear_width: int  # inputs and outputs of all linear layers, adapters and output head excluded
    num_layers: int
    hidden_size: int
    vocab_size: int


class TrainingMemory(NamedTuple):
    """Bytes of one worker."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    main_memory: int  # what is offloaded

    @property
    def gpu(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations


def training_memory(counts: ModelCounts, settings: Train, num_workers: int) -> TrainingMemory:
    """What each of `num_workers` needs on its GPU and, with an offload, in main memory."""
    size, stage = 2 if settings.precision == "bf16" else 4, settings.engine_stage
    weights = size * counts.parameters / (num_workers if stage == 3 else 1)
    summed = 4 * counts.trained / (num_workers if stage > 1 else 1)  # gradients over passes, in float32
    # in bf16 the gradients of one pass are separate; stage 3 frees them layer by layer
    of_pass = 0.0 if size == 4 or stage == 3 else size * counts.trained / (num_workers if stage == 2 else 1)
    of_adam = 6 if settings.master_weights == "bf16" else 12  # the weights that it updates, and two states
    optimizer = of_adam * counts.trained / num_workers if stage else 8.0 * counts.trained
    gathered = 2 * size * counts.largest_module if stage == 3 else 0  # weights and gradients
    main_memory = 0.0
    if settings.offload != "none":
        main_memory = 4 * counts.trained / num_workers + optimizer
        summed, optimizer, of_pass = 0.0, 0.0, size * counts.trained if stage == 1 else 0.0
    if settings.offload == "all":
        main_memory, weights = main_memory + weights, 0.0
    gpu = weights + gathered, summed + of_pass, optimizer, _activations(counts, settings, size)
    return TrainingMemory(*map(round, (*gpu, main_memory)))


def _activations(counts: ModelCounts, settings: Train, size: int) -> float:
    """Bytes of one forward pass; those of the linear layers stand for all of a layer's."""
    tokens = settings.least_pass_tokens
    width: float = counts.linear_width
    if settings.activation_checkpointing:  # each layer's input, and one layer while it is recomputed
        width = counts.num_layers * counts.hidden_size + counts.linear_width / counts.num_layers
    # of a chunk of tokens, in float32, and their gradient
    logits = (4 + size) * min(tokens * counts.vocab_size, CHUNK_ELEMENTS["cuda"])
    head_gradient = 4 * counts.vocab_size * counts.hidden_size if settings.lora is None else 0
    return size * tokens * width + logits + head_gradient


def lowest_stage(counts: ModelCounts, settings: Train, num_workers: int, gpu_bytes: int) -> int:
    """The ZeRO stage that communicates least among those that fit, with room for passes to grow.

    Stage 1 sums the gradients over the workers once a step, stage 2 after each pass, and stage 3 gathers the weights.
    """
    lowest = 2 if settings.master_weights == "bf16" else 1  # DeepSpeed has these in stages 2 and 3
    if num_workers == 1:
        return lowest  # there is nothing to shard
    if settings.micro_batch_tokens == "auto":
        settings = settings.model_copy(update={"micro_batch_tokens": _ROOM_TO_GROW * settings.max_length})
    for stage in range(lowest, 3):
        at_stage = settings.model_copy(update={"zero_stage": stage})
        if training_memory(counts, at_stage, num_workers).gpu <= _USABLE * gpu_bytes:
            return stage
    return 2 if settings.compile is True else 3  # stage 3 cannot be compiled


def memory_line(needed: TrainingMemory, num_workers: int, gpu_bytes: int) -> str:
    """One line with what is needed, and what the smallest GPU has.

    Raises:
        InputError: it cannot fit.
    """
    parts = ", ".join(f"{name} {decimal(getattr(needed, name))}" for name in TrainingMemory._fields[:4])
    offloaded = f", and {decimal(needed.main_memory)} of main memory" if needed.main_memory else ""
    line = f"{decimal(needed.gpu)} on each of {num_workers} GPUs with {decimal(gpu_bytes)} ({parts}){offloaded}"
    if needed.gpu - needed.activations > gpu_bytes:  # activations are an estimate
        raise InputError(
            f"[train] needs at least {line}; raise zero_stage or use more GPUs, lower micro_batch_tokens or "
            "max_length, set activation_checkpointing = true, offload, or lora"
        )
    return line + ("; the activations may not fit" if needed.gpu > gpu_bytes else "")
