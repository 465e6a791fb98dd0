"""DeepSpeed's settings: those that the user may give, and those that follow from other keys."""

from typing import Any

import pytest

from ossft_ray.common.errors import InputError
from ossft_ray.config import Train
from ossft_ray.engines.training.deepspeed_engine import check_deepspeed_settings, deepspeed_config


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"deepspeed": {"bf16": {"enabled": True}}}, r"\[train\.deepspeed\] bf16: is decided by train\.precision"),
        ({"deepspeed": {"zero_optimization": {"stage": 1}}}, r"zero_optimization\.stage: is decided by train\.zero"),
        ({"offload": "optimizer", "zero_stage": 0}, r"\[train\] offload: needs zero_stage 1, 2 or 3"),
        ({"offload": "all", "zero_stage": 2}, r'\[train\] offload: "all" needs zero_stage 3'),
        ({"master_weights": "bf16", "precision": "fp32"}, r'\[train\] master_weights: "bf16" needs precision = "bf16"'),
        ({"master_weights": "bf16", "zero_stage": 1}, r'\[train\] master_weights: "bf16" needs zero_stage 2 or 3'),
        ({"master_weights": "bf16", "offload": "optimizer"}, r'master_weights: "bf16" cannot be offloaded'),
        ({"compile": True, "zero_stage": 3}, r"\[train\] compile: layers that ZeRO stage 3 shards cannot be compiled"),
    ],
)
def test_contradictory_deepspeed_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_deepspeed_settings(Train(**settings))


def test_other_deepspeed_settings_pass_through() -> None:
    more = {"zero_optimization": {"reduce_bucket_size": 1000}, "wall_clock_breakdown": True}
    config = deepspeed_config(Train(deepspeed=more), 2)
    assert config["zero_optimization"] == {"stage": 2, "reduce_bucket_size": 1000} and config["wall_clock_breakdown"]


@pytest.mark.parametrize("has_gpu", [True, False])
def test_offloaded_memory_is_pinned_where_a_gpu_reads_it(has_gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: has_gpu)
    zero = deepspeed_config(Train(offload="all", zero_stage=3), 2)["zero_optimization"]
    assert zero["offload_optimizer"]["pin_memory"] is zero["offload_param"]["pin_memory"] is has_gpu


@pytest.mark.parametrize("zero_stage, used", [(0, 1), (1, 1), (2, 2), (3, 3)])
def test_gradients_are_never_added_up_in_half_precision(zero_stage: int, used: int) -> None:
    config = deepspeed_config(Train(zero_stage=zero_stage), 1)
    assert config["zero_optimization"]["stage"] == used and config["data_types"] == {"grad_accum_dtype": "fp32"}
    assert (
        deepspeed_config(Train(zero_stage=zero_stage, precision="fp32"), 1)["zero_optimization"]["stage"] == zero_stage
    )


@pytest.mark.parametrize("num_workers, has_gpu, overlaps", [(8, True, True), (1, True, None), (8, False, None)])
def test_gradients_are_reduced_during_the_backward_pass(
    num_workers: int, has_gpu: bool, overlaps: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: has_gpu)
    assert deepspeed_config(Train(), num_workers)["zero_optimization"].get("overlap_comm") is overlaps
