"""The files of Ray's cluster launcher, checked by Ray's validator without any machine."""

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
PROVIDERS = ("local", "aws", "gcp")
COMMANDS = ("setup_commands", "head_start_ray_commands", "worker_start_ray_commands")


@pytest.fixture(params=PROVIDERS)
def config(request: pytest.FixtureRequest) -> dict[str, Any]:
    return load(request.param)


def load(provider: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((CLUSTER / f"{provider}.yaml").read_text())
    return loaded


def test_the_launcher_accepts_it(config: dict[str, Any]) -> None:
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    workers = config["provider"].get("worker_ips")
    assert prepared["max_workers"] == (config["max_workers"] if workers is None else len(workers))
    assert prepared["head_start_ray_commands"] == config["head_start_ray_commands"]


@pytest.mark.parametrize(
    "provider, change, error",
    [
        ("local", {"file_mount": {}}, jsonschema.ValidationError),
        ("local", {"target_utilization_fraction": 0.8}, jsonschema.ValidationError),
        ("local", {"provider": {"type": "local", "head_ip": "10.0.0.1"}}, click.ClickException),
        ("aws", {"head_node_type": "heads"}, ValueError),
        ("aws", {"max_workers": 0}, ValueError),  # fewer than min_workers
        ("gcp", {"provider": {"type": "gcp", "project_id": 7}}, jsonschema.ValidationError),
        ("gcp", {"available_node_types": {"head": {"resources": {}}}, "head_node_type": "head"}, Exception),
    ],
)
def test_the_launcher_rejects_errors(provider: str, change: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        validate_config(prepare_config({**load(provider), **change}))


def test_commands_are_valid_bash(config: dict[str, Any]) -> None:
    for command in (command for key in COMMANDS for command in config[key]):
        checked = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True)
        assert checked.returncode == 0, f"{command}: {checked.stderr}"


def test_access_requires_a_token(config: dict[str, Any]) -> None:
    """Every node has the token and requires it; the dashboard, which runs jobs, listens on loopback only."""
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    for key in COMMANDS[1:]:
        starts = [command for command in config[key] if "ray start" in command]
        assert len(starts) == 1
        assert "export RAY_AUTH_MODE=token" in starts[0]
        assert ("--dashboard-host=127.0.0.1" in starts[0]) == (key == "head_start_ray_commands")


def test_ray_starts_inside_the_environment(config: dict[str, Any]) -> None:
    assert any("git clone" in command for command in config["setup_commands"])
    assert any("make -C ~/ossft_ray env" in command for command in config["setup_commands"])
    for key in COMMANDS[1:]:
        assert all("~/ossft_ray/.venv/bin/" in command for command in config[key])


def test_ray_is_on_the_path_for_ray_down(config: dict[str, Any]) -> None:
    assert any(">> ~/.bashrc" in command and "~/ossft_ray/.venv/bin" in command for command in config["setup_commands"])


def test_the_storage_is_checked_before_ray_starts(config: dict[str, Any]) -> None:
    assert any("test -w /shared" in command for command in config["setup_commands"])


@pytest.mark.parametrize("provider", ["aws", "gcp"])
def test_clouds_start_ray_with_the_commands_of_local_yaml(provider: str) -> None:
    """These are the commands that `make multihost` runs."""
    for key in COMMANDS[1:]:
        on_premises = [command.replace(" RAY_enable_autoscaler_v2=0", "") for command in load("local")[key]]
        assert load(provider)[key] == on_premises, "only local.yaml needs the first autoscaler"


@pytest.mark.parametrize("provider", ["aws", "gcp"])
def test_only_workers_have_gpus_and_only_they_are_spot(provider: str) -> None:
    config = load(provider)
    types = {name: kind["node_config"] for name, kind in config["available_node_types"].items()}
    spot = {
        name: "InstanceMarketOptions" in node or "SPOT" in str(node.get("scheduling")) for name, node in types.items()
    }
    assert spot == {"head": False, "gpu": True}
    head = config["available_node_types"][config["head_node_type"]]
    assert head["resources"] == {"CPU": 0}  # drivers and Ray's control processes only
    assert config["available_node_types"]["gpu"]["min_workers"] >= 1  # without a GPU node, `auto` would plan for CPUs
    assert config["provider"]["cache_stopped_nodes"] is False
    # the head has no GPU that `make env` could detect
    assert any("BACKEND=gpu" in command for command in config["setup_commands"])
