"""The GPUs of a machine: the driver's view through NVML, and PyTorch's view from a new process."""

import multiprocessing
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from ossft_ray.engines import gpus
from ossft_ray.engines.gpus import (
    DriverGpus,
    TorchGpus,
    alone_on,
    driver_gpus,
    gpu_memory,
    num_visible_gpus,
    torch_gpus,
    used_gpu_memory,
)


def fake_driver(monkeypatch: pytest.MonkeyPatch, **functions: Any) -> None:
    """NVML on a machine with two GPUs, of which 10 and 20 bytes are in use. A handle is the GPU's number."""
    working = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetHandleByUUID": lambda uuid: ["GPU-a", "GPU-b"].index(uuid),
        "nvmlDeviceGetName": lambda handle: ["NVIDIA L4", "NVIDIA H100"][handle],
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(used=[10, 20][handle], total=[24, 80][handle]),
        "nvmlSystemGetDriverVersion": lambda: "570.86.10",
    }
    for name, function in (working | functions).items():
        monkeypatch.setattr(pynvml, name, function)


def fails(*arguments: Any) -> None:
    raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)


def test_a_working_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_driver(monkeypatch)
    assert driver_gpus() == DriverGpus(["NVIDIA L4", "NVIDIA H100"], "570.86.10")
    assert gpu_memory() == [24, 80]


@pytest.mark.parametrize("function", ["nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetName"])
def test_a_missing_or_failing_driver_has_no_gpus(monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    fake_driver(monkeypatch, **{function: fails})
    assert driver_gpus() == DriverGpus([], None)
    assert function == "nvmlDeviceGetName" or gpu_memory() == []


@pytest.mark.parametrize(
    "gpu_ids, used", [([0], 10), (["1"], 20), ([0, 1], 30), (["GPU-b"], 20), (["GPU-a", 1], 30), ([], 0)]
)
def test_used_memory(monkeypatch: pytest.MonkeyPatch, gpu_ids: list[int | str], used: int) -> None:
    fake_driver(monkeypatch)
    assert used_gpu_memory(gpu_ids) == used


def test_used_memory_is_0_if_the_driver_cannot_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_driver(monkeypatch, nvmlDeviceGetMemoryInfo=fails)
    assert used_gpu_memory([0, 1]) == 0


@pytest.mark.thorough
def test_torch_answers_from_a_new_process() -> None:
    found = torch_gpus()
    assert found.error is None
    assert len(found.names) == len(driver_gpus().names) or found.runtime is None


def test_a_torch_that_cannot_be_imported_gives_the_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart is missing')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert torch_gpus() == TorchGpus([], None, "ImportError: libcudart is missing")


def hold(gpu_ids: list[int | str], folder: str, entered: Any) -> None:
    tempfile.tempdir = folder
    with alone_on(gpu_ids):
        entered.set()
        multiprocessing.Event().wait()  # until it is killed


@pytest.mark.thorough
def test_one_process_at_a_time_is_alone_on_a_gpu(tmp_path: Path) -> None:
    """A number and a UUID can name the same GPU, and a killed process holds none."""
    context = multiprocessing.get_context("fork")
    with pytest.MonkeyPatch.context() as patched:
        fake_driver(patched, nvmlDeviceGetUUID=lambda handle: ["GPU-a", "GPU-b"][handle])
        pairs = [(context.Event(), gpu_ids) for gpu_ids in (["GPU-a"], [1, 0], ["GPU-b"])]
        first, second, third = (
            context.Process(target=hold, args=(gpu_ids, str(tmp_path), entered)) for entered, gpu_ids in pairs
        )
        (is_first_in, _), (is_second_in, _), (is_third_in, _) = pairs
        try:
            first.start()
            assert is_first_in.wait(20)
            third.start()
            assert is_third_in.wait(20), "another GPU"
            second.start()
            assert not is_second_in.wait(0.3)
            third.kill()
            assert not is_second_in.wait(0.3), "it needs both"
            first.kill()
            assert is_second_in.wait(20)
        finally:
            for process in (first, second, third):
                process.kill()
                process.join()
    with alone_on([]):  # on CPUs there is nothing to wait for
        pass


@pytest.mark.parametrize(
    "visible, has_amd_driver, expected",
    [(None, False, 2), ("0", False, 1), ("", True, 0), (None, True, 2)],
    ids=["NVIDIA", "some hidden", "all hidden", "NVIDIA next to AMD"],
)
def test_visible_gpus_of_nvidia(
    visible: str | None, has_amd_driver: bool, expected: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_driver(monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible or "")
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(gpus, "_AMD_DRIVER", str(tmp_path if has_amd_driver else tmp_path / "none"))
    assert num_visible_gpus() == expected


def test_visible_gpus_of_amd_are_those_of_pytorch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_driver(monkeypatch, nvmlInit=fails)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(gpus, "_AMD_DRIVER", str(tmp_path))
    monkeypatch.setattr(gpus, "torch_gpus", lambda: TorchGpus(["MI300X"] * 8, "ROCm 7.1", None))
    assert num_visible_gpus() == 8
    assert gpus.gpu_fault(DriverGpus([], None), gpus.torch_gpus()) is None
