"""A schema of the RayJob fields that cluster/kuberay.yaml uses; misspelt and misplaced fields are rejected.

Kubernetes only warns of an unknown field and drops it. The schema is a small part of KubeRay 1.7.0's
`ray.io_rayjobs.yaml` (ray.io/v1); test_kuberay.py can also check against that file.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic.alias_generators import to_camel

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
Quantity = Annotated[int | str, Field(union_mode="left_to_right")]
Count = Annotated[int, Field(ge=0)]


class Fields(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel)


def is_quantity(values: dict[str, int | str]) -> dict[str, int | str]:
    for name, value in values.items():
        digits = str(value).rstrip("KMGTPEimk")
        if not digits.replace(".", "", 1).isdigit():
            raise ValueError(f"{name}: {value!r} is not a quantity")
    return values


Quantities = Annotated[dict[str, Quantity], AfterValidator(is_quantity)]


class Metadata(Fields):
    name: Name | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Resources(Fields):
    requests: Quantities = {}
    limits: Quantities = {}

    @model_validator(mode="after")
    def gpu_requests_equal_limits(self) -> "Resources":
        for name in self.requests.keys() | self.limits.keys():
            if "/" in name and self.requests.get(name, self.limits.get(name)) != self.limits.get(name):
                raise ValueError(f"{name}: the limit must equal the request")
        return self


class SecretKey(Fields):
    name: Name
    key: str
    optional: bool = False


class ValueFrom(Fields):
    secret_key_ref: SecretKey


class Variable(Fields):
    name: str
    value: str | None = None
    value_from: ValueFrom | None = None


class Port(Fields):
    name: Annotated[str, StringConstraints(max_length=15)]
    container_port: Annotated[int, Field(ge=1, le=65535)]


class Mount(Fields):
    name: Name
    mount_path: str
    read_only: bool = False


class Capabilities(Fields):
    drop: list[str]


class Rights(Fields):
    allow_privilege_escalation: bool
    capabilities: Capabilities


class Container(Fields):
    name: Name
    image: str
    security_context: Rights
    env: list[Variable]
    ports: list[Port] = []
    resources: Resources
    volume_mounts: list[Mount]


class Claim(Fields):
    claim_name: Name


class NamedObject(Fields):
    name: Name


class Volume(Fields):
    name: Name
    persistent_volume_claim: Claim | None = None
    config_map: NamedObject | None = None


class User(Fields):
    run_as_non_root: bool
    run_as_user: Count
    run_as_group: Count
    fs_group: Count
    fs_group_change_policy: Literal["OnRootMismatch", "Always"]


class Toleration(Fields):
    key: str
    operator: Literal["Exists", "Equal"]
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]


class Pod(Fields):
    containers: Annotated[list[Container], Field(min_length=1)]
    volumes: list[Volume]
    security_context: User
    node_selector: dict[str, str] = {}
    tolerations: list[Toleration] = []
    automount_service_account_token: bool = True
    termination_grace_period_seconds: Count = 30

    @model_validator(mode="after")
    def mounts_have_volumes(self) -> "Pod":
        volumes = {volume.name for volume in self.volumes}
        for mount in (mount for container in self.containers for mount in container.volume_mounts):
            if mount.name not in volumes:
                raise ValueError(f"volumeMount {mount.name} has no volume")
        return self


class PodTemplate(Fields):
    metadata: Metadata = Metadata()
    spec: Pod


class Group(Fields):
    ray_start_params: dict[str, str]  # strings only: other values do not reach `ray start`
    template: PodTemplate


class HeadGroup(Group):
    service_type: Literal["ClusterIP", "NodePort", "LoadBalancer"]


class WorkerGroup(Group):
    group_name: Name
    replicas: Count
    min_replicas: Count
    max_replicas: Count

    @model_validator(mode="after")
    def bounds_are_in_order(self) -> "WorkerGroup":
        if not self.min_replicas <= self.replicas <= self.max_replicas:
            raise ValueError(
                f"minReplicas {self.min_replicas} <= replicas {self.replicas} <= maxReplicas does not hold"
            )
        return self


class Autoscaler(Fields):
    version: Literal["v1", "v2"]
    idle_timeout_seconds: Count
    resources: Resources


class Auth(Fields):
    mode: Literal["disabled", "token"]
    secret_name: Name | None = None


class Cluster(Fields):
    ray_version: str
    auth_options: Auth
    enable_in_tree_autoscaling: bool
    autoscaler_options: Autoscaler
    head_group_spec: HeadGroup
    worker_group_specs: list[WorkerGroup]


class RayJobSpec(Fields):
    entrypoint: str
    backoff_limit: Count
    shutdown_after_job_finishes: bool
    ttl_seconds_after_finished: Count
    ray_cluster_spec: Cluster

    @model_validator(mode="after")
    def a_ttl_needs_a_shutdown(self) -> "RayJobSpec":
        if self.ttl_seconds_after_finished and not self.shutdown_after_job_finishes:
            raise ValueError("ttlSecondsAfterFinished needs shutdownAfterJobFinishes")
        return self


class RayJob(Fields):
    api_version: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: Metadata
    spec: RayJobSpec


class StorageRequest(Fields):
    access_modes: list[Literal["ReadWriteMany", "ReadWriteOnce"]]
    storage_class_name: str
    resources: Resources


class PersistentVolumeClaim(Fields):
    api_version: Literal["v1"]
    kind: Literal["PersistentVolumeClaim"]
    metadata: Metadata
    spec: StorageRequest
