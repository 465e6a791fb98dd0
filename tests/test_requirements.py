"""The pins of requirements/ and the script that installs them."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# The extra and the Python of each stack
STACKS = {"cpu": ("cpu", "3.11"), "gpu": ("gpu", "3.11"), "older": ("cpu", "3.12")}


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def script(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What requirements/environment.sh would do."""
    command = ["bash", str(ROOT / "requirements/environment.sh"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"DRY_RUN": "1"} | environment)


def python_of(folder: Path, release: str) -> str:
    """A program that claims to be this release of Python."""
    python = folder / f"python{release}"
    python.write_text(f"#!/bin/sh\ncase $2 in *\"!= '{release}'\"*) exit 0 ;; esac\nexit 1\n")
    python.chmod(0o755)
    return str(python)


@pytest.mark.parametrize("name", STACKS)
def test_the_pins_are_within_the_ranges(name: str) -> None:
    extra, python = STACKS[name]
    pinned = pins(name)
    stated = map(Requirement, [*PROJECT["dependencies"], *PROJECT["optional-dependencies"][extra]])
    outside = [str(each) for each in stated if pinned.get(each.name.lower()) not in each.specifier]
    assert outside == []
    assert python in SpecifierSet(PROJECT["requires-python"])


def test_the_older_stack_has_the_oldest_releases() -> None:
    pinned = pins("older")
    lines = (ROOT / "requirements/older-constraints.txt").read_text().splitlines()
    wanted = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert {name: pinned[name] for name in wanted} == wanted
    ranges = {each.name: each.specifier for each in map(Requirement, PROJECT["dependencies"])}
    assert re.search(r">=([\d.]+)", str(ranges["torch"]))[1] in wanted["torch"]  # type: ignore[index]


def test_the_classifiers_name_every_supported_python() -> None:
    named = [re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", line) for line in PROJECT["classifiers"]]
    supported = SpecifierSet(PROJECT["requires-python"])
    assert [match[1] for match in named if match] == [f"3.{n}" for n in range(30) if f"3.{n}" in supported]


def test_the_older_stack_is_made_in_its_own_folder(tmp_path: Path) -> None:
    python = python_of(tmp_path, "3.12")
    done = script("older", str(tmp_path / "env"), PYTHON=python, UV_FIND_LINKS="none")
    assert done.returncode == 0, done.stderr
    made, installed = done.stdout.splitlines()
    assert made == f"+ {python} -m venv --clear {tmp_path}/env"
    assert installed.endswith(f"--python {tmp_path}/env/bin/python requirements/older.txt")


@pytest.mark.parametrize("arguments, release", [((), "3.11"), (("older", "env"), "3.12")])
def test_a_python_other_than_the_pinned_one_is_refused(
    arguments: tuple[str, ...], release: str, tmp_path: Path
) -> None:
    done = script(*arguments, PYTHON=python_of(tmp_path, "3.13"), BACKEND="cpu")
    if not arguments and (ROOT / ".venv").exists():
        assert done.returncode == 0, "nothing has to be made"
        return
    assert done.returncode == 1
    assert f"is not a working Python {release}, for which the pins are" in done.stderr
    assert "docs/installation.md" in done.stderr
