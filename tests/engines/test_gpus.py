"""What a machine's GPUs are: nvidia-smi's lines, and PyTorch in a process of its own."""

import os
from pathlib import Path

import pytest

from ossft_ray.engines.gpus import Gpu, driver_gpus, read_gpus, torch_gpus

MIB = 1 << 20


@pytest.mark.parametrize(
    "listing, expected",
    [
        ("", []),
        (
            "NVIDIA H100 80GB HBM3, 81559, 4, 570.86.10\n",
            [Gpu("NVIDIA H100 80GB HBM3", 81559 * MIB, 4 * MIB, "570.86.10")],
        ),
        ("A, 2, 1, 5\nB, [N/A], [N/A], 5\n", [Gpu("A", 2 * MIB, MIB, "5"), Gpu("B", 0, 0, "5")]),
        ("No devices were found\n", []),
    ],
)
def test_listings(listing: str, expected: list[Gpu]) -> None:
    assert read_gpus(listing) == expected


@pytest.mark.parametrize(
    "script, expected",
    [("echo 'X, 10, 1, 570'", [Gpu("X", 10 * MIB, MIB, "570")]), ("echo 'X, 10, 1, 570'; exit 9", [])],
    ids=["works", "fails"],
)
def test_the_drivers_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, expected: list[Gpu]) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert driver_gpus() == expected


def test_no_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert driver_gpus() == []


def test_torch_answers_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    found = torch_gpus()
    assert found.keys() == {"gpus", "cuda", "error"}
    assert found["error"] is None
    assert len(found["gpus"]) == len(driver_gpus()) or found["cuda"] is None


def test_torch_that_cannot_be_imported_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart is missing')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert torch_gpus() == {"gpus": [], "cuda": None, "error": "ImportError: libcudart is missing"}
