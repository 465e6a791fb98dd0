"""The GPUs of this machine, as the driver and as PyTorch see them. `python -m` prints PyTorch's view as JSON."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import pynvml

from ossft_ray.common.errors import brief

_TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class DriverGpus:
    """The GPUs that the NVIDIA driver lists."""

    names: list[str]
    version: str | None  # of the driver; None without one


@dataclass(frozen=True)
class TorchGpus:
    """The GPUs that PyTorch can use."""

    names: list[str]
    runtime: str | None  # that PyTorch was built for, as in "CUDA 13.0" or "ROCm 7.1"; None for a CPU build
    error: str | None  # why PyTorch cannot use them


def driver_gpus() -> DriverGpus:
    """The driver's list; empty on a machine without a driver, and where the driver does not answer."""
    try:
        pynvml.nvmlInit()
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        return DriverGpus([pynvml.nvmlDeviceGetName(handle) for handle in handles], pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return DriverGpus([], None)


def used_gpu_memory(gpu_ids: Iterable[int | str]) -> int:
    """Bytes in use by any process on these GPUs, named as in `CUDA_VISIBLE_DEVICES`: by index or UUID. 0 if unknown."""
    used = 0
    try:
        pynvml.nvmlInit()
        for name in map(str, gpu_ids):
            by_index, by_uuid = pynvml.nvmlDeviceGetHandleByIndex, pynvml.nvmlDeviceGetHandleByUUID
            used += pynvml.nvmlDeviceGetMemoryInfo(by_index(int(name)) if name.isdigit() else by_uuid(name)).used
    except pynvml.NVMLError:
        return 0
    return used


def torch_gpus() -> TorchGpus:
    """PyTorch's view from a new process, which sees all GPUs even if this process was given none."""
    # Ray empties this variable for a task that asks for no GPU
    environment = {name: value for name, value in os.environ.items() if value or name != "CUDA_VISIBLE_DEVICES"}
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__], capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, env=environment
        )
        return TorchGpus(**json.loads(done.stdout.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        return TorchGpus([], None, f"no answer within {_TIMEOUT_SECONDS} seconds")
    except (IndexError, json.JSONDecodeError):
        lines = done.stderr.strip().splitlines()
        return TorchGpus([], None, lines[-1] if lines else f"ended with code {done.returncode}")


def gpu_fault(nvidia: DriverGpus, torch: TorchGpus) -> str | None:
    """Why PyTorch cannot use the GPUs that the driver lists, and the fix; None if it can."""
    if torch.error is not None:
        return (
            f"torch (for {torch.runtime}) cannot use the GPUs, whose driver is {nvidia.version}: {torch.error}; "
            "install a newer driver, or restart the node"
        )
    if nvidia.names and torch.runtime is None:
        return (
            f"it has {len(nvidia.names)} GPUs, but torch is a CPU-only build; run `make env BACKEND=gpu`, or in a new "
            "environment `pip install 'ossft-ray[gpu]'`"
        )
    return None


def _ask_torch() -> TorchGpus:
    import torch

    versions = {"CUDA": torch.version.cuda, "ROCm": torch.version.hip}
    runtime = next((f"{name} {version}" for name, version in versions.items() if version), None)
    try:
        if torch.cuda.is_available():
            torch.zeros(1, device="cuda")  # a driver that is too old fails here
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return TorchGpus(names, runtime, None)
    except RuntimeError as error:
        return TorchGpus([], runtime, brief(error))


if __name__ == "__main__":
    print(json.dumps(asdict(_ask_torch())))
