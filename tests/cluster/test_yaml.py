"""The cluster file as Ray's launcher reads it, checked without any machine."""

import copy
import subprocess
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

CLUSTER = Path(__file__).parents[2] / "cluster"
COMMANDS = ("setup_commands", "head_start_ray_commands", "worker_start_ray_commands")


@pytest.fixture
def config() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((CLUSTER / "local.yaml").read_text())
    return loaded


def test_launcher_accepts_it(config: dict[str, Any]):
    prepared = prepare_config(config)
    validate_config(prepared)
    assert prepared["max_workers"] == len(config["provider"]["worker_ips"])


@pytest.mark.parametrize(
    "change, refusal",
    [
        ({"file_mount": {}}, jsonschema.ValidationError),
        ({"target_utilization_fraction": 0.8}, jsonschema.ValidationError),
        ({"provider": {"type": "local", "head_ip": "10.0.0.1"}}, click.ClickException),
    ],
)
def test_launcher_refuses_faults(config: dict[str, Any], change: dict[str, Any], refusal: type[Exception]):
    with pytest.raises(refusal):
        validate_config(prepare_config({**copy.deepcopy(config), **change}))


def test_commands_are_bash(config: dict[str, Any]):
    for command in (command for key in COMMANDS for command in config[key]):
        checked = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True)
        assert checked.returncode == 0, f"{command}: {checked.stderr}"


def test_safe_by_default(config: dict[str, Any]):
    """Every node has the token and asks for it; the dashboard, which runs jobs, listens on loopback alone."""
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    for key in COMMANDS[1:]:
        starts = [command for command in config[key] if "ray start" in command]
        assert len(starts) == 1
        assert "export RAY_AUTH_MODE=token" in starts[0]
        assert ("--dashboard-host=127.0.0.1" in starts[0]) == (key == "head_start_ray_commands")


def test_ray_starts_inside_the_environment(config: dict[str, Any]):
    assert any("git clone" in command for command in config["setup_commands"])
    assert any("make -C ~/ossft_ray env" in command for command in config["setup_commands"])
    for key in COMMANDS[1:]:
        assert all("~/ossft_ray/.venv/bin/" in command for command in config[key])
