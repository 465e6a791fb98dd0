"""The GPUs of a machine: the driver's view through NVML, and PyTorch's view from a new process."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from ossft_ray.engines.gpus import DriverGpus, TorchGpus, driver_gpus, torch_gpus, used_gpu_memory


def fake_driver(monkeypatch: pytest.MonkeyPatch, **functions: Any) -> None:
    """NVML on a machine with two GPUs, of which 10 and 20 bytes are in use. A handle is the GPU's number."""
    working = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetHandleByUUID": lambda uuid: ["GPU-a", "GPU-b"].index(uuid),
        "nvmlDeviceGetName": lambda handle: ["NVIDIA L4", "NVIDIA H100"][handle],
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(used=[10, 20][handle]),
        "nvmlSystemGetDriverVersion": lambda: "570.86.10",
    }
    for name, function in (working | functions).items():
        monkeypatch.setattr(pynvml, name, function)


def fails(*arguments: Any) -> None:
    raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)


def test_a_working_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_driver(monkeypatch)
    assert driver_gpus() == DriverGpus(["NVIDIA L4", "NVIDIA H100"], "570.86.10")


@pytest.mark.parametrize("function", ["nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetName"])
def test_a_driver_that_is_missing_or_fails(monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    fake_driver(monkeypatch, **{function: fails})
    assert driver_gpus() == DriverGpus([], None)


@pytest.mark.parametrize(
    "gpu_ids, used", [([0], 10), (["1"], 20), ([0, 1], 30), (["GPU-b"], 20), (["GPU-a", 1], 30), ([], 0)]
)
def test_used_memory(monkeypatch: pytest.MonkeyPatch, gpu_ids: list[int | str], used: int) -> None:
    fake_driver(monkeypatch)
    assert used_gpu_memory(gpu_ids) == used


def test_used_memory_is_0_where_the_driver_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_driver(monkeypatch, nvmlDeviceGetMemoryInfo=fails)
    assert used_gpu_memory([0, 1]) == 0


def test_torch_answers_from_a_new_process() -> None:
    found = torch_gpus()
    assert found.error is None
    assert len(found.names) == len(driver_gpus().names) or found.runtime is None


def test_a_torch_that_cannot_be_imported_gives_the_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart is missing')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert torch_gpus() == TorchGpus([], None, "ImportError: libcudart is missing")
