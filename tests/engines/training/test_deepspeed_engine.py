"""DeepSpeed's settings: which the user may give, and which follow from other keys."""

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
    ],
)
def test_contradicting_deepspeed_settings_are_refused(settings: dict[str, Any], message: str) -> None:
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
