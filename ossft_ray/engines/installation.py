"""What is installed: releases, packages that do not fit PyTorch, and what Triton compiles with."""

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from ossft_ray.common.errors import InputError

_MEDIA = ("torchvision", "torchaudio", "torchcodec")  # vLLM requires them for images and sound; a run uses none
_EXTRAS = ("", "cpu", "gpu")
_TRITON = "with which Triton compiles the kernels of vLLM and of training on a GPU"


def installed_version(package: str) -> Version | None:
    """The installed version of a package, from its metadata; None if it is not installed."""
    try:
        return Version(metadata.version(package))
    except metadata.PackageNotFoundError:
        return None


def required_versions(package: str) -> dict[str, SpecifierSet]:
    """What an installed package requires, and what its extras `cpu` and `gpu` do; empty if it is not installed."""
    try:
        requirements = map(Requirement, metadata.requires(package) or [])
    except metadata.PackageNotFoundError:
        return {}
    return {
        each.name: each.specifier
        for each in requirements
        if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in _EXTRAS)
    }


def media_fault() -> str | None:
    """Why torchvision keeps transformers and vLLM from being imported here, and the fix; None if it does not.

    Both import torchvision if it is installed. pip installs the CUDA build next to a CPU build of PyTorch, and that
    import fails. vLLM requires torchvision, so no requirement of this package can prevent it.
    """
    torch, torchvision = installed_version("torch"), installed_version("torchvision")
    if torch is None or torchvision is None:
        return None
    wanted = required_versions("torchvision").get("torch", SpecifierSet())
    if torch.local == torchvision.local and wanted.contains(torch, prereleases=True):
        return None
    # A mismatch in the metadata is only a hint: some builds fit under other names.
    if subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True).returncode == 0:
        return None
    packages = " ".join(package for package in _MEDIA if installed_version(package) is not None)
    return (
        f"torchvision {torchvision} does not fit torch {torch}, so vLLM and transformers cannot be imported; "
        f"remove it, as no run needs it: pip uninstall --yes {packages}"
    )


def check_media() -> None:
    """Call this before the first import of transformers or vLLM.

    Raises:
        InputError: torchvision would make that import fail.
    """
    if fault := media_fault():
        raise InputError(fault)


def compiler_fault() -> str | None:
    """Why Triton finds no C compiler, and the fix; None if it does. It compiles kernels for GPUs."""
    if any(map(shutil.which, (os.environ.get("CC") or "cc", "gcc", "clang"))):
        return None
    return f"no C compiler, {_TRITON}: install gcc (on Debian and Ubuntu: build-essential)"


def header_fault() -> str | None:
    """Why Triton finds no headers of this Python, and the fix; None if it does."""
    header, version = Path(sysconfig.get_path("include"), "Python.h"), ".".join(map(str, sys.version_info[:2]))
    if header.exists():
        return None
    return f"{header} is missing, {_TRITON}: install python{version}-dev, or a Python that has it"


def installation_faults(has_gpu: bool) -> list[str]:
    """What would stop a run on this machine, each with its fix."""
    checks = [media_fault, *([compiler_fault, header_fault] if has_gpu else [])]
    return [fault for check in checks if (fault := check())]
