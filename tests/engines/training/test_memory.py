"""The memory that training needs: DeepSpeed's own estimates, sums by hand, and counts of a model's config."""

import pytest

from ossft_ray.common.errors import InputError
from ossft_ray.config import Lora, Policy, Train
from ossft_ray.engines.training.memory import ModelCounts, lowest_stage, memory_line, training_memory
from ossft_ray.engines.training.policy_model import count_parameters, load_model

COUNTS = ModelCounts(
    parameters=7_000_000_000, trained=7_000_000_000, largest_module=500_000_000, linear_width=2_500_000, num_layers=28,
    hidden_size=3584, vocab_size=152_064,
)  # fmt: skip


@pytest.mark.engine
@pytest.mark.parametrize("num_workers", [1, 8])
@pytest.mark.parametrize("offload", ["none", "optimizer", "all"])
def test_model_states_equal_deepspeeds_own_estimates(num_workers: int, offload: str) -> None:
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    sizes = {"num_gpus_per_node": num_workers, "num_nodes": 1, "additional_buffer_factor": 1.0}
    moved = {"cpu_offload": offload != "none"}
    if offload != "all":
        needed = training_memory(COUNTS, Train(zero_stage=2, offload=offload), num_workers)
        _, gpu = estimate_zero2_model_states_mem_needs(COUNTS.parameters, **sizes, **moved)
        assert needed.gpu - needed.activations == pytest.approx(gpu)
    needed = training_memory(COUNTS, Train(zero_stage=3, offload=offload), num_workers)
    moved["cpu_offload_params"] = offload == "all"
    main, gpu, _ = estimate_zero3_model_states_mem_needs(COUNTS.parameters, COUNTS.largest_module, **sizes, **moved)
    assert needed.gpu - needed.activations == pytest.approx(gpu)
    assert offload == "none" or needed.main_memory * num_workers == pytest.approx(main)


@pytest.mark.parametrize(
    "settings, bytes_each",
    [
        ({"zero_stage": 0}, (2, 6, 12)),  # runs as stage 1
        ({"zero_stage": 1}, (2, 6, 12)),
        ({"zero_stage": 0, "precision": "fp32"}, (4, 4, 8)),
        ({"zero_stage": 2, "precision": "fp32"}, (4, 4, 12)),
        ({"zero_stage": 1, "offload": "optimizer"}, (2, 2, 0)),
    ],
)
def test_bytes_of_a_parameter_on_one_gpu(settings: dict[str, object], bytes_each: tuple[int, ...]) -> None:
    needed = training_memory(COUNTS, Train(**settings), 1)
    assert needed[:3] == tuple(COUNTS.parameters * each for each in bytes_each)
    adapters = COUNTS._replace(trained=1000)
    adapted = training_memory(adapters, Train(**settings, lora=Lora()), 1)
    assert adapted[:3] == (needed.weights, *(1000 * each for each in bytes_each[1:]))


def test_activations() -> None:
    plain = Train(max_length=4096, lora=Lora())  # a head that is not trained has no gradient
    logits = (4 + 2) * (1 << 28)
    assert training_memory(COUNTS, plain, 1).activations == 2 * 4096 * 2_500_000 + logits
    recomputed = plain.model_copy(update={"activation_checkpointing": True})
    assert training_memory(COUNTS, recomputed, 1).activations == pytest.approx(
        2 * 4096 * (28 * 3584 + 2_500_000 / 28) + logits
    )


def test_too_small_a_gpu_is_refused() -> None:
    needed = training_memory(COUNTS, Train(zero_stage=2, offload="optimizer"), 8)
    assert memory_line(needed, 8, 80 << 30).startswith("28.0 GB on each of 8 GPUs with 85.9 GB (weights 14.0 GB, ")
    assert memory_line(needed, 8, 16 << 30).endswith("; the activations may not fit")  # they are an estimate
    with pytest.raises(InputError, match=r"^\[train\] needs at least 28.0 GB on each of 8 GPUs with 8.6"):
        memory_line(needed, 8, 8 << 30)


@pytest.mark.parametrize(
    "settings, num_workers, gigabytes, stage",
    [
        ({}, 1, 24, 1),
        ({"master_weights": "bf16"}, 1, 24, 2),
        ({}, 8, 141, 1),
        ({"master_weights": "bf16"}, 8, 141, 2),
        ({}, 8, 80, 2),
        ({"micro_batch_tokens": 100_000}, 8, 141, 3),
        ({}, 8, 40, 3),
        ({"compile": True}, 8, 40, 2),
        ({"offload": "optimizer"}, 8, 80, 1),
    ],
)
def test_the_lowest_stage_that_fits(settings: dict[str, object], num_workers: int, gigabytes: int, stage: int) -> None:
    assert lowest_stage(COUNTS, Train(zero_stage="auto", **settings), num_workers, gigabytes << 30) == stage


@pytest.mark.parametrize("lora", [None, Lora(rank=4)])
def test_counts_are_those_of_the_loaded_model(lora: Lora | None) -> None:
    settings = Train(lora=lora)
    model, _ = load_model(Policy(model="playground"), settings)
    parameters = list(model.parameters())
    counts = count_parameters(Policy(model="playground"), settings)
    assert counts.parameters == sum(each.numel() for each in parameters)
    assert counts.trained == sum(each.numel() for each in parameters if each.requires_grad)
    config = model.config
    hidden, head = config.hidden_size, config.hidden_size // config.num_attention_heads
    projections = 4 * hidden + 2 * head * (config.num_attention_heads + config.num_key_value_heads)
    assert counts.linear_width == config.num_hidden_layers * (projections + 3 * (hidden + config.intermediate_size))


def test_adam_in_half_precision_takes_half_the_memory() -> None:
    whole, half = (training_memory(COUNTS, Train(zero_stage=2, master_weights=each), 4) for each in ("fp32", "bf16"))
    assert half.optimizer == whole.optimizer / 2 and half.gradients == whole.gradients
