"""cluster/kuberay.yaml checked against KubeRay's rules, without a cluster.

With `OSSFT_KUBERAY_CRD=FILE`, KubeRay's `ray.io_rayjobs.yaml`, it is also checked against the complete definition.
"""

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from pydantic import ValidationError

from tests.cluster.kuberay_schema import PersistentVolumeClaim, RayJob

CLUSTER = Path(__file__).parents[2] / "cluster"
CRD = os.environ.get("OSSFT_KUBERAY_CRD")
HEAD = "spec.rayClusterSpec.headGroupSpec"
WORKERS = "spec.rayClusterSpec.workerGroupSpecs.0"


@pytest.fixture
def documents() -> dict[str, Any]:
    return {document["kind"]: document for document in yaml.safe_load_all((CLUSTER / "kuberay.yaml").read_text())}


@pytest.fixture
def job(documents: dict[str, Any]) -> dict[str, Any]:
    # without anchors: a value that they repeat would be one object, and a change in one place would change all
    loaded: dict[str, Any] = copy.deepcopy(yaml.safe_load(yaml.dump(documents["RayJob"], Dumper=WithoutAnchors)))
    return loaded


class WithoutAnchors(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


def test_it_holds_a_ray_job_and_a_volume_claim(documents: dict[str, Any]) -> None:
    assert list(documents) == ["PersistentVolumeClaim", "RayJob"]
    RayJob.model_validate(documents["RayJob"])
    claim = PersistentVolumeClaim.model_validate(documents["PersistentVolumeClaim"])
    assert claim.spec.access_modes == ["ReadWriteMany"]  # several nodes write the run


@pytest.mark.parametrize(
    "key, value, complaint",
    [
        ("apiVersion", "ray.io/v1alpha1", "apiVersion"),
        ("spec.entryPoint", "ossft run", "entryPoint"),
        ("spec.backoffLimit", "3", "valid integer"),
        ("spec.shutdownAfterJobFinishes", False, "ttlSecondsAfterFinished needs"),
        ("spec.rayClusterSpec.authOptions.mode", "tokens", "authOptions.mode"),
        ("spec.rayClusterSpec.autoscalerOptions.idleTimeoutSeconds", -1, "greater than or equal to 0"),
        (f"{HEAD}.rayStartParams.num-cpus", 0, "valid string"),
        (f"{HEAD}.template.spec.containers.0.volumeMounts.0.name", "share", "volumeMount share has no volume"),
        (f"{WORKERS}.maxReplicas", 0, "minReplicas 1 <="),
        (
            f"{WORKERS}.template.spec.containers.0.resources.limits.nvidia.com/gpu",
            4,
            "must equal the request",
        ),
        (f"{WORKERS}.template.spec.containers.0.resources.limits.memory", "900 Gib", "is not a quantity"),
        (f"{WORKERS}.template.spec.toleration", [], "toleration"),
    ],
)
def test_errors_are_rejected(job: dict[str, Any], key: str, value: object, complaint: str) -> None:
    put(job, key, value)
    with pytest.raises(ValidationError, match=complaint):
        RayJob.model_validate(job)


def test_access_and_rights_are_minimal(job: dict[str, Any]) -> None:
    """Tokens are required, nothing is exposed outside, pods have no unneeded rights, the file holds no secret."""
    cluster = RayJob.model_validate(job).spec.ray_cluster_spec
    assert cluster.auth_options.mode == "token"
    assert cluster.head_group_spec.service_type == "ClusterIP"
    for pod in (cluster.head_group_spec.template.spec, cluster.worker_group_specs[0].template.spec):
        assert pod.security_context.run_as_non_root
        (container,) = pod.containers
        assert not container.security_context.allow_privilege_escalation
        assert container.security_context.capabilities.drop == ["ALL"]
        tokens = [variable for variable in container.env if "TOKEN" in variable.name]
        assert [variable.name for variable in tokens] == ["HF_TOKEN"]
        assert all(variable.value is None and variable.value_from for variable in tokens)


def test_head_and_workers_share_image_environment_and_storage(job: dict[str, Any]) -> None:
    cluster = RayJob.model_validate(job).spec.ray_cluster_spec
    head, worker = cluster.head_group_spec.template.spec, cluster.worker_group_specs[0].template.spec
    assert head.containers[0].image == worker.containers[0].image
    assert head.containers[0].env == worker.containers[0].env
    shared = {mount.name: mount.mount_path for mount in worker.containers[0].volume_mounts}
    assert shared == {"shared": "/shared"}
    assert shared.items() <= {mount.name: mount.mount_path for mount in head.containers[0].volume_mounts}.items()


def test_the_ray_version_is_the_installed_one(job: dict[str, Any]) -> None:
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == ray.__version__


def test_only_workers_have_gpus_and_one_starts_with_the_cluster(job: dict[str, Any]) -> None:
    cluster = RayJob.model_validate(job).spec.ray_cluster_spec
    (group,) = cluster.worker_group_specs
    assert group.template.spec.containers[0].resources.limits["nvidia.com/gpu"] >= 1
    assert group.min_replicas >= 1  # without a GPU node, `auto` would plan for CPUs
    assert "nvidia.com/gpu" not in cluster.head_group_spec.template.spec.containers[0].resources.limits
    assert cluster.head_group_spec.ray_start_params["num-cpus"] == "0"


@pytest.mark.skipif(not CRD, reason="OSSFT_KUBERAY_CRD names no file: KubeRay's ray.io_rayjobs.yaml")
def test_the_complete_definition_accepts_it(job: dict[str, Any]) -> None:
    schema = complete_definition()
    jsonschema.Draft202012Validator(schema).validate(job)
    put(job, "spec.rayClusterSpec.authOption", {})
    with pytest.raises(jsonschema.ValidationError, match="authOption"):
        jsonschema.Draft202012Validator(schema).validate(job)


@pytest.mark.skipif(not CRD, reason="OSSFT_KUBERAY_CRD names no file: KubeRay's ray.io_rayjobs.yaml")
def test_the_definition_has_every_field_of_our_schema() -> None:
    missing = sorted(set(paths(RayJob.model_json_schema())) - set(paths(complete_definition())))
    # Kubernetes defines `metadata`; KubeRay's definition leaves its fields open
    assert [path for path in missing if "metadata." not in path] == []


def complete_definition() -> dict[str, Any]:
    """The definition's schema for ray.io/v1, rejecting unknown fields as `kubectl --validate=strict` does."""
    versions = yaml.load(Path(CRD or "").read_text(), Loader=yaml.CSafeLoader)["spec"]["versions"]
    (schema,) = [version["schema"]["openAPIV3Schema"] for version in versions if version["name"] == "v1"]
    close(schema)
    return dict(schema)


def close(schema: Any) -> None:
    if isinstance(schema, list):
        for item in schema:
            close(item)
    if not isinstance(schema, dict):
        return
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    for item in schema.values():
        close(item)


def paths(schema: dict[str, Any], prefix: str = "", root: dict[str, Any] | None = None) -> Iterator[str]:
    """Every field of a JSON schema as a dotted path; a list's items have the path of the list."""
    root = schema if root is None else root
    if "$ref" in schema:
        yield from paths(root["$defs"][schema["$ref"].rpartition("/")[2]], prefix, root)
    for part in [*schema.get("anyOf", []), *([schema["items"]] if "items" in schema else [])]:
        yield from paths(part, prefix, root)
    for name, field in schema.get("properties", {}).items():
        yield f"{prefix}{name}"
        yield from paths(field, f"{prefix}{name}.", root)


def put(document: Any, key: str, value: object) -> None:
    """Set the value of a dotted key. The last name may contain dots if the document has such a key."""
    name, _, rest = key.partition(".")
    if rest and not (isinstance(document, dict) and key in document):
        put(document[int(name)] if isinstance(document, list) else document[name], rest, value)
    else:
        document[key] = value
