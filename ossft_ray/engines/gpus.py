"""Which GPUs has this machine, as its driver and as PyTorch see them? `python -m` prints PyTorch's answer as JSON."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

_TIMEOUT_SECONDS = 60
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_MIB = 1 << 20


@dataclass(frozen=True)
class Gpu:
    """A GPU as its driver describes it."""

    name: str
    memory_bytes: int
    used_bytes: int
    driver: str  # version


def driver_gpus() -> list[Gpu]:
    """What `nvidia-smi` lists; nothing where there is none, or it fails."""
    query = "--query-gpu=name,memory.total,memory.used,driver_version"
    try:
        done = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return read_gpus(done.stdout) if done.returncode == 0 else []


def read_gpus(listing: str) -> list[Gpu]:
    """The GPUs of `nvidia-smi`'s CSV; sizes that a driver does not tell (`[N/A]`) count as 0.

    >>> read_gpus("NVIDIA L4, 23034, 512, 550.54.15")
    [Gpu(name='NVIDIA L4', memory_bytes=24152899584, used_bytes=536870912, driver='550.54.15')]
    """
    gpus = []
    for line in listing.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == 4:
            total, used = (int(cell) * _MIB if cell.isdigit() else 0 for cell in cells[1:3])
            gpus.append(Gpu(cells[0], total, used, cells[3]))
    return gpus


def torch_gpus() -> dict[str, Any]:
    """What PyTorch finds in a process of its own, whatever GPUs this one was given: `gpus`, `cuda`, `error`."""
    # Ray empties the variable for a task that asks for no GPU
    environment = {name: value for name, value in os.environ.items() if name != _VISIBLE or value}
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__], capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, env=environment
        )
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found
    except subprocess.TimeoutExpired:
        return {"gpus": [], "cuda": None, "error": f"no answer within {_TIMEOUT_SECONDS} seconds"}
    except (IndexError, json.JSONDecodeError):
        lines = done.stderr.strip().splitlines()
        return {"gpus": [], "cuda": None, "error": lines[-1] if lines else f"ended with code {done.returncode}"}


def _ask_torch() -> dict[str, Any]:
    import torch

    try:
        if torch.version.cuda and torch.cuda.is_available():
            torch.zeros(1, device="cuda")  # a driver that is too old fails here
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return {"gpus": names, "cuda": torch.version.cuda, "error": None}
    except RuntimeError as error:
        return {"gpus": [], "cuda": torch.version.cuda, "error": str(error).splitlines()[0]}


if __name__ == "__main__":
    print(json.dumps(_ask_torch()))
