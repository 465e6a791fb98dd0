"""cluster/kuberay.yaml by KubeRay's own rules, as far as they can be held without a cluster.

`OSSFT_KUBERAY_CRD=FILE`, KubeRay's `ray.io_rayjobs.yaml`, checks it against the whole definition too.
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
    # YAML's anchors are one object here; a change of one place must not change others
    loaded: dict[str, Any] = copy.deepcopy(yaml.safe_load(yaml.dump(documents["RayJob"], Dumper=WithoutAnchors)))
    return loaded


class WithoutAnchors(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


def test_it_is_a_ray_job_and_a_claim(documents: dict[str, Any]):
    assert list(documents) == ["PersistentVolumeClaim", "RayJob"]
    RayJob.model_validate(documents["RayJob"])
    claim = PersistentVolumeClaim.model_validate(documents["PersistentVolumeClaim"])
    assert claim.spec.access_modes == ["ReadWriteMany"]  # several nodes write the run


@pytest.mark.parametrize(
    "place, value, complaint",
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
        (f"{WORKERS}.template.spec.containers.0.resources.limits.nvidia.com/gpu", 4, "same limit as request"),
        (f"{WORKERS}.template.spec.containers.0.resources.limits.memory", "900 Gib", "no quantity"),
        (f"{WORKERS}.template.spec.toleration", [], "toleration"),
    ],
)
def test_faults_are_refused(job: dict[str, Any], place: str, value: object, complaint: str):
    put(job, place, value)
    with pytest.raises(ValidationError, match=complaint):
        RayJob.model_validate(job)


def test_safe_by_default(job: dict[str, Any]):
    """A token everywhere, no way in from outside, no rights that work does not need, no secret in the file."""
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


def test_every_pod_is_the_same_but_for_what_it_does(job: dict[str, Any]):
    cluster = RayJob.model_validate(job).spec.ray_cluster_spec
    head, worker = cluster.head_group_spec.template.spec, cluster.worker_group_specs[0].template.spec
    assert head.containers[0].image == worker.containers[0].image
    assert head.containers[0].env == worker.containers[0].env
    shared = {mount.name: mount.mount_path for mount in worker.containers[0].volume_mounts}
    assert shared == {"shared": "/shared"}
    assert shared.items() <= {mount.name: mount.mount_path for mount in head.containers[0].volume_mounts}.items()


def test_ray_is_the_one_that_is_installed(job: dict[str, Any]):
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == ray.__version__


def test_only_workers_have_gpus_and_one_is_there_from_the_start(job: dict[str, Any]):
    cluster = RayJob.model_validate(job).spec.ray_cluster_spec
    (group,) = cluster.worker_group_specs
    assert group.template.spec.containers[0].resources.limits["nvidia.com/gpu"] >= 1
    assert group.min_replicas >= 1  # `auto` takes a cluster without GPUs for a CPU one
    assert "nvidia.com/gpu" not in cluster.head_group_spec.template.spec.containers[0].resources.limits
    assert cluster.head_group_spec.ray_start_params["num-cpus"] == "0"


@pytest.mark.skipif(not CRD, reason="OSSFT_KUBERAY_CRD names no file: KubeRay's ray.io_rayjobs.yaml")
def test_the_whole_definition_accepts_it(job: dict[str, Any]):
    schema = whole_definition()
    jsonschema.Draft202012Validator(schema).validate(job)
    put(job, "spec.rayClusterSpec.authOption", {})
    with pytest.raises(jsonschema.ValidationError, match="authOption"):
        jsonschema.Draft202012Validator(schema).validate(job)


@pytest.mark.skipif(not CRD, reason="OSSFT_KUBERAY_CRD names no file: KubeRay's ray.io_rayjobs.yaml")
def test_our_statement_names_no_field_that_the_definition_lacks():
    missing = sorted(set(paths(RayJob.model_json_schema())) - set(paths(whole_definition())))
    # `metadata` is Kubernetes' own: the definition leaves its fields open
    assert [path for path in missing if "metadata." not in path] == []


def whole_definition() -> dict[str, Any]:
    """The definition's schema for ray.io/v1, with unknown fields refused as `kubectl --validate=strict` does."""
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
    """Every field of a JSON schema, dotted; the items of a list count as the list."""
    root = schema if root is None else root
    if "$ref" in schema:
        yield from paths(root["$defs"][schema["$ref"].rpartition("/")[2]], prefix, root)
    for part in [*schema.get("anyOf", []), *([schema["items"]] if "items" in schema else [])]:
        yield from paths(part, prefix, root)
    for name, field in schema.get("properties", {}).items():
        yield f"{prefix}{name}"
        yield from paths(field, f"{prefix}{name}.", root)


def put(document: Any, place: str, value: object) -> None:
    """Set a dotted place; the last name may itself hold a dot, where the document has such a key."""
    name, _, rest = place.partition(".")
    if rest and not (isinstance(document, dict) and place in document):
        put(document[int(name)] if isinstance(document, list) else document[name], rest, value)
    else:
        document[place] = value
