"""One line for each way in which training dies."""

import pytest
import torch

from ossft_ray.common.errors import JobError
from ossft_ray.engines.training.diagnosis import GradientWatch, explain_out_of_memory

USUAL = [1.0, 2.0, 3.0, 2.0, 1.0, 2.0, 3.0, 2.0, 1.0, 2.0]  # median 2


@pytest.mark.parametrize(
    "max_jump, before, norm, message",
    [
        (1000.0, USUAL, 2001.0, r"exploded in step 11: its norm is 2e\+03, where 2 is usual; its problems: p-1, p-2"),
        (1000.0, USUAL, 1999.0, None),
        (10.0, USUAL, 21.0, "train.max_grad_norm_jump"),
        (0.0, USUAL, 1e30, None),  # 0 allows all
        (10.0, USUAL[:9], 1e6, None),  # too few to know what is usual
        (0.0, [], float("nan"), "the gradient norm of step 11 is nan"),
        (10.0, [1e9] + [1.0] * 50, 20.0, "exploded"),  # old norms are forgotten
    ],
)
def test_gradient_watch(max_jump: float, before: list[float], norm: float, message: str | None) -> None:
    watch = GradientWatch(max_jump, before)
    if message is None:
        watch.raise_if_exploding(norm, 11, ["p-1", "p-2"])
        assert watch.norms[-1] == norm
    else:
        with pytest.raises(JobError, match=message):
            watch.raise_if_exploding(norm, 11, ["p-1", "p-2"])


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUDA error: out of memory"),  # pinned memory
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
        MemoryError(),
    ],
)
@pytest.mark.parametrize("stage, where", [("train", "step 3"), ("score", "part-1")])
def test_out_of_memory_names_the_problems_and_what_to_change(stage: str, where: str, error: Exception) -> None:
    message = rf"{stage}: out of memory in {where}; its problems: a, b; lower"
    with pytest.raises(JobError, match=message), explain_out_of_memory(stage, where, ["a", "b"]):
        raise error
    with pytest.raises(RuntimeError, match="shape"), explain_out_of_memory(stage, where, ["a"]):
        raise RuntimeError("shape mismatch")
