"""Growth of passes on a GPU with simulated memory: a number of bytes per token, and a fixed amount."""

import pytest
import torch

from ossft_ray.config import Train
from ossft_ray.engines.training.pass_size import PassSize

_GIB = 2**30


class SimulatedGpu:
    """80 GiB, of which some are taken; a pass takes memory in proportion to its tokens, and frees it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, taken: float, bytes_each: float) -> None:
        self.taken, self._bytes_each, self._peak = taken, bytes_each, 0.0
        for name, function in {
            "memory_allocated": lambda *_: self.taken,
            "max_memory_allocated": lambda *_: self._peak,
            "reset_peak_memory_stats": lambda *_: setattr(self, "_peak", self.taken),
            "mem_get_info": lambda *_: (80 * _GIB - self.taken, 80 * _GIB),
            "memory_reserved": lambda *_: self.taken,
        }.items():
            monkeypatch.setattr(torch.cuda, name, function)
        monkeypatch.setattr(torch.distributed, "all_reduce", lambda *_: None)
        plain = torch.tensor
        monkeypatch.setattr(torch, "tensor", lambda value, device: plain(value))

    def run(self, size: PassSize, num_last: int = 150) -> None:
        """A step of three passes, of which the last is small and has a fixed cost like the others."""
        for number, num_tokens in enumerate((size.tokens, size.tokens, num_last)):
            with size.measured(number, num_tokens):
                self._peak = max(self._peak, self.taken + self._bytes_each * num_tokens)


def test_passes_grow_to_what_fits_and_then_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, size = SimulatedGpu(monkeypatch, 30 * _GIB, 3e6), PassSize(Train(max_length=2048), "cuda")
    tokens = []
    for _ in range(5):
        gpu.run(size)
        size.grow()
        tokens.append(size.tokens)
    fitting = int((0.9 * 80 - 30) * _GIB / 3e6)
    assert tokens == [8192, pytest.approx(fitting, abs=1), *[pytest.approx(fitting, abs=1)] * 3]
    assert size.peak_bytes <= 0.9 * 80 * _GIB
    gpu.taken = 0  # later steps learn nothing
    gpu.run(size)
    size.grow()
    assert size.tokens == tokens[-1]


def test_a_pass_that_is_already_too_large_never_shrinks(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, size = SimulatedGpu(monkeypatch, 75 * _GIB, 1e6), PassSize(Train(max_length=2048), "cuda")
    gpu.run(size)
    size.grow()
    assert size.tokens == 2048


@pytest.mark.parametrize("settings, device", [({"micro_batch_tokens": 5000}, "cuda"), ({"max_length": 5000}, "cpu")])
def test_a_given_size_and_a_cpus_size_do_not_change(settings: dict[str, int], device: str) -> None:
    size = PassSize(Train(**settings), device)
    with size.measured(0, 1000):
        pass
    size.grow()
    assert size.tokens == 5000
