"""The text of cluster/Containerfile; the image is not built."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[2]
INSTRUCTIONS = ("FROM", "ARG", "RUN", "USER", "WORKDIR", "COPY", "ENV")


def instructions() -> list[tuple[str, str]]:
    """Each instruction with its arguments, continued lines joined."""
    lines = [line for line in (ROOT / "cluster/Containerfile").read_text().splitlines() if not line.startswith("#")]
    logical = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines)).splitlines()
    return [(name, text) for name, _, text in (line.partition(" ") for line in logical if line)]


def texts(instruction: str) -> list[str]:
    return [text for name, text in instructions() if name == instruction]


def test_all_instructions_are_known() -> None:
    assert {name for name, _ in instructions()} == set(INSTRUCTIONS)
    assert all(text.strip() for _, text in instructions())


def test_the_base_image_is_pinned_and_has_a_supported_python() -> None:
    (base,) = texts("FROM")
    match = re.fullmatch(r"docker\.io/library/python:(3\.\d+\.\d+)-slim-bookworm@sha256:[0-9a-f]{64}", base)
    assert match
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert match[1] in SpecifierSet(project["requires-python"])


@pytest.mark.parametrize("copy", texts("COPY"))
def test_copied_files_exist_and_are_committed(copy: str) -> None:
    *sources, target = [word for word in copy.split() if not word.startswith("--")]
    committed = subprocess.run(["git", "ls-files", "--", *sources], cwd=ROOT, capture_output=True, text=True).stdout
    for source in sources:
        assert (ROOT / source).exists()
        assert not (ROOT / ".git").exists() or any(
            line == source or line.startswith(f"{source}/") for line in committed.splitlines()
        )
    if len(sources) == 1 and (ROOT / sources[0]).is_dir():
        assert target == sources[0]  # COPY copies a folder's contents, so the target repeats its name


def test_files_for_the_environment_are_copied_before_it_is_made() -> None:
    """These are the files that hatchling and `make env` read."""
    names = instructions()
    make_env = next(index for index, (name, text) in enumerate(names) if name == "RUN" and "make env" in text)
    before = " ".join(text for name, text in names[:make_env] if name == "COPY").split()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = ["Makefile", "pyproject.toml", "requirements", "ossft_ray/__init__.py", project["readme"]]
    assert set(needed + project["license-files"]) <= set(before)


def test_it_runs_as_the_user_of_the_pods() -> None:
    """The user is not root, has the id in kuberay.yaml, and owns the copied files."""
    *_, job = yaml.safe_load_all((ROOT / "cluster/kuberay.yaml").read_text())
    user = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["securityContext"]["runAsUser"]
    assert texts("USER") == ["ray"]
    assert f"useradd --uid {user} --create-home ray" in " ".join(texts("RUN"))
    assert all(copy.startswith("--chown=ray ") for copy in texts("COPY"))


def test_the_environment_is_on_the_path() -> None:
    (workdir,), (environment,) = texts("WORKDIR"), texts("ENV")
    assert f"PATH={workdir}/.venv/bin:$PATH" in environment.split()


@pytest.mark.parametrize("run", texts("RUN"))
def test_commands_are_valid_sh(run: str) -> None:
    checked = subprocess.run(["sh", "-n", "-c", run], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
