"""aws.yaml and gcp.yaml checked against EC2's and Compute Engine's API descriptions; no account is needed.

Ray passes `node_config` to the cloud as is, so Ray's validator does not check it.
"""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import botocore.validate
import googleapiclient
import pytest
import yaml
from moto import mock_aws
from ray.autoscaler._private.aws import config as aws_config
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.gcp.config import get_node_type
from ray.autoscaler._private.gcp.node import GCPNodeType
from ray.autoscaler._private.util import prepare_config, validate_config

CLUSTER = Path(__file__).parents[2] / "cluster"
COMPUTE = Path(googleapiclient.__file__).parent / "discovery_cache" / "documents" / "compute.v1.json"


def load(provider: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((CLUSTER / f"{provider}.yaml").read_text())
    return loaded


def node_configs(provider: str) -> dict[str, dict[str, Any]]:
    return {name: kind["node_config"] for name, kind in load(provider)["available_node_types"].items()}


# AWS


def ec2_errors(node_config: dict[str, Any]) -> str:
    shape = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    report = botocore.validate.ParamValidator().validate({"MinCount": 1, "MaxCount": 1, **node_config}, shape)
    return str(report.generate_report())


@pytest.mark.parametrize("name", ["head", "gpu"])
def test_ec2_accepts_every_field(name: str) -> None:
    assert ec2_errors(node_configs("aws")[name]) == ""


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"InstanceMarketOption": {"MarketType": "spot"}}, "InstanceMarketOption"),
        ({"InstanceMarketOptions": {"MarketType": "spot", "SpotOptions": {"MaxPrize": "1"}}}, "MaxPrize"),
        ({"BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": "300"}}]}, "VolumeSize"),
    ],
)
def test_ec2_rejects_errors(change: dict[str, Any], complaint: str) -> None:
    assert complaint in ec2_errors({**node_configs("aws")["gpu"], **change})


@pytest.fixture
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """aws.yaml with the security group of a simulated account, which accepts any image."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray writes its new key pair into ~/.ssh
    logging.getLogger("botocore").setLevel(logging.CRITICAL)
    # Ray caches clients and subnets for the whole process
    for cached in (aws_config._get_subnets_or_die, aws_config.resource_cache):
        cached.cache_clear()
    config = load("aws")
    with mock_aws():
        iam = boto3.client("iam")  # as an earlier `ray up` leaves it; Ray waits half a minute for a role that it makes
        iam.create_role(RoleName=aws_config.DEFAULT_RAY_IAM_ROLE, AssumeRolePolicyDocument="{}")
        profile = {"InstanceProfileName": aws_config.DEFAULT_RAY_INSTANCE_PROFILE}
        iam.create_instance_profile(**profile)
        iam.add_role_to_instance_profile(**profile, RoleName=aws_config.DEFAULT_RAY_IAM_ROLE)
        ec2 = boto3.client("ec2", region_name=config["provider"]["region"])
        vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
        group = ec2.create_security_group(GroupName="ossft", Description="ossft", VpcId=vpc)["GroupId"]
        for kind in config["available_node_types"].values():
            kind["node_config"].update(SecurityGroupIds=[group])
        yield config


@pytest.mark.thorough
def test_ray_starts_the_machines_on_a_simulated_ec2(aws: dict[str, Any]) -> None:
    """The part of `ray up` that concerns machines: prepare the account, look up types, start a head and a worker."""
    aws = AWSNodeProvider.fillout_available_node_types_resources(prepare_config(aws))
    config = aws_config.bootstrap_aws(aws)
    validate_config({key: value for key, value in config.items() if key != "head_node"})
    types = config["available_node_types"]
    assert types["head"]["resources"]["CPU"] == 0
    assert types["gpu"]["resources"]["GPU"] == 8

    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    for name in ("head", "gpu"):
        node_config = {**types[name]["node_config"], **(config["head_node"] if name == "head" else {})}
        provider.create_node(node_config, {"ray-node-type": name}, 1)
    machines = {
        tag["Value"]: machine
        for reservation in boto3.client("ec2", region_name=config["provider"]["region"]).describe_instances()[
            "Reservations"
        ]
        for machine in reservation["Instances"]
        for tag in machine["Tags"]
        if tag["Key"] == "ray-node-type"
    }
    assert machines["head"].get("InstanceLifecycle") is None
    assert machines["gpu"]["InstanceLifecycle"] == "spot"
    assert machines["head"]["IamInstanceProfile"]["Arn"].endswith("ray-autoscaler-v1")
    assert "IamInstanceProfile" not in machines["gpu"]


# GCP


@pytest.fixture(scope="module")
def compute() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(COMPUTE.read_text())["schemas"]
    return loaded


def google_errors(value: Any, schema: dict[str, Any], schemas: dict[str, Any], path: str = "") -> Iterator[str]:
    """Where a value violates a discovery document: unknown fields, wrong types or values."""
    schema = schemas[schema["$ref"]] if "$ref" in schema else schema
    python = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int}[schema["type"]]
    number_as_text = schema.get("format") in ("int64", "uint64") and isinstance(value, int)
    if not isinstance(value, python) and not number_as_text:
        yield f"{path}: {value!r} is not of type {schema['type']}"
    elif isinstance(value, dict):
        for name, item in value.items():
            if name in schema.get("properties", {}):
                yield from google_errors(item, schema["properties"][name], schemas, f"{path}.{name}")
            else:
                yield f"{path}.{name} is unknown"
    elif isinstance(value, list):
        for item in value:
            yield from google_errors(item, schema["items"], schemas, path)
    elif "enum" in schema and value not in schema["enum"]:
        yield f"{path}: {value} is not one of {', '.join(schema['enum'])}"


@pytest.mark.parametrize("name", ["head", "gpu"])
def test_compute_engine_accepts_every_field(name: str, compute: dict[str, Any]) -> None:
    node_config = node_configs("gcp")[name]
    assert list(google_errors(node_config, compute["Instance"], compute)) == []
    assert get_node_type(node_config) == GCPNodeType.COMPUTE


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"scheduling": [{"preemptible": True}]}, "is not of type object"),  # as in Ray's defaults
        ({"scheduling": {"provisioningModel": "spot"}}, "spot is not one of"),
        ({"disk": []}, ".disk is unknown"),
        ({"disks": [{"boot": "true"}]}, ".disks.boot: 'true' is not of type boolean"),
    ],
)
def test_compute_engine_rejects_errors(change: dict[str, Any], complaint: str, compute: dict[str, Any]) -> None:
    errors = list(google_errors({**node_configs("gcp")["gpu"], **change}, compute["Instance"], compute))
    assert len(errors) == 1 and complaint in errors[0]
