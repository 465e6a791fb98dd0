"""The GPUs of this machine, as the driver and as PyTorch see them. `python -m` prints PyTorch's view as JSON."""

import fcntl
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import pynvml

from ossft_ray.common.errors import brief

_TIMEOUT_SECONDS = 60
_AMD_DRIVER = "/dev/kfd"


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


def gpu_memory() -> list[int]:
    """The bytes of memory of each GPU of `CUDA_VISIBLE_DEVICES`, or of all; empty if the driver does not answer."""
    try:
        pynvml.nvmlInit()
        # Ray empties the variable for a task that asks for no GPU
        names = _visible_devices() or range(pynvml.nvmlDeviceGetCount())
        return [int(pynvml.nvmlDeviceGetMemoryInfo(_handle(name)).total) for name in names]
    except pynvml.NVMLError:
        return []


def num_visible_gpus() -> int:
    """How many GPUs Ray would count on this machine, found without importing torch where possible."""
    if (visible := _visible_devices()) is not None:
        return len(visible)
    return len(driver_gpus().names or (torch_gpus().names if os.path.exists(_AMD_DRIVER) else []))


def used_gpu_memory(gpu_ids: Iterable[int | str]) -> int:
    """Bytes in use by any process on these GPUs, named as in `CUDA_VISIBLE_DEVICES`: by index or UUID. 0 if unknown."""
    try:
        pynvml.nvmlInit()
        return sum(pynvml.nvmlDeviceGetMemoryInfo(_handle(gpu_id)).used for gpu_id in gpu_ids)
    except pynvml.NVMLError:
        return 0


@contextmanager
def alone_on(gpu_ids: Iterable[int | str]) -> Iterator[None]:
    """Keep this user's other processes out of this context for any of these GPUs, named as above.

    An engine measures the GPU's memory while it starts, and would count what another one takes then as its own.
    The lock is released when its holder ends, even if killed.
    """
    with ExitStack() as locks:
        for name in sorted(map(_uuid, gpu_ids)):  # in one order, so that two processes never wait for each other
            path = os.path.join(tempfile.gettempdir(), f"ossft-{os.getuid()}-{name}.lock")
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            locks.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX)
            locks.callback(fcntl.flock, lock, fcntl.LOCK_UN)  # a forked process may have the file open, too
        yield


def _visible_devices() -> list[str] | None:
    """The GPUs of `CUDA_VISIBLE_DEVICES`; None if it is not set."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return None if visible is None else [name for name in visible.split(",") if name]


def _handle(gpu_id: int | str) -> Any:
    name = str(gpu_id)
    return pynvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit() else pynvml.nvmlDeviceGetHandleByUUID(name)


def _uuid(gpu_id: int | str) -> str:
    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlDeviceGetUUID(_handle(gpu_id)))
    except pynvml.NVMLError:  # another vendor's GPU
        return f"GPU-{gpu_id}"


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
