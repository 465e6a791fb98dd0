"""Checks of the installation: torchvision next to PyTorch, the compiler, and Python's headers."""

import subprocess
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ossft_ray.common.errors import InputError
from ossft_ray.config import resolve
from ossft_ray.engines import installation
from ossft_ray.run_folder.resolved_run import Run


def install(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """Pretend that only these packages are installed; torchvision requires the torch of its metadata."""

    def version(package: str) -> str:
        if package not in versions:
            raise metadata.PackageNotFoundError(package)
        return versions[package]

    monkeypatch.setattr(installation.metadata, "version", version)
    monkeypatch.setattr(installation.metadata, "requires", lambda package: ["numpy", "torch (==2.13.0)"])


def import_torchvision(monkeypatch: pytest.MonkeyPatch, works: bool) -> list[Any]:
    """Let the import of torchvision in a new process work or fail; returns the commands run from now on."""
    commands: list[Any] = []

    def run(command: Any, **_: Any) -> Any:
        commands.append(command)
        return SimpleNamespace(returncode=0 if works else 1)

    monkeypatch.setattr(subprocess, "run", run)
    return commands


@pytest.mark.parametrize(
    "versions, tried",
    [
        ({"torch": "2.13.0+cpu", "torchvision": "0.28.0", "torchcodec": "0.17.0"}, True),
        ({"torch": "2.11.0", "torchvision": "0.28.0"}, True),
        ({"torch": "2.13.0", "torchvision": "0.28.0"}, False),
        ({"torch": "2.13.0+cpu", "torchvision": "0.28.0+cpu"}, False),
        ({"torch": "2.13.0+cpu"}, False),
    ],
    ids=["CUDA next to CPU", "another release", "both from PyPI", "both for CPUs", "none"],
)
def test_a_torchvision_that_does_not_fit_is_named_with_the_fix(
    versions: dict[str, str], tried: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, **versions)
    commands = import_torchvision(monkeypatch, works=False)
    fault = installation.media_fault()
    assert (len(commands), fault is not None) == (tried, tried)
    if fault is not None:
        packages = " ".join(name for name in versions if name != "torch")
        assert fault.endswith(f"pip uninstall --yes {packages}") and versions["torch"] in fault


def test_a_torchvision_that_can_be_imported_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, torch="2.13.0+mine", torchvision="0.28.0")
    assert import_torchvision(monkeypatch, works=True) == [] and installation.media_fault() is None


def test_a_run_is_refused_before_it_imports_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, torch="2.13.0+cpu", torchvision="0.28.0")
    import_torchvision(monkeypatch, works=False)
    experiment = resolve({"policy": {"model": "playground"}, "data": {"path": "p.jsonl"}})
    with pytest.raises(InputError, match=r"torch 2.13.0.cpu, .*pip uninstall --yes torchvision"):
        _ = Run(experiment).chat


def test_only_a_gpu_needs_a_compiler_and_headers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch)
    assert installation.installation_faults(has_gpu=True) == [], "this machine has both"
    monkeypatch.setattr(installation.shutil, "which", lambda name: None)
    monkeypatch.setattr(installation.sysconfig, "get_path", lambda name: str(tmp_path))
    compiler, header = installation.installation_faults(has_gpu=True)
    assert "no C compiler" in compiler and "install gcc" in compiler
    assert f"{tmp_path}/Python.h is missing" in header and "-dev" in header
    assert installation.installation_faults(has_gpu=False) == []
