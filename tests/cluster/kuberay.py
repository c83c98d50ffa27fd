"""Strict models of the keys of KubeRay's resources that cluster/ uses; others are added when they are used.

No package on the registries carries KubeRay's schema. Kubernetes' own parts (pod templates and what is in them) are
checked against Kubernetes' schema by `kubernetes-validate`, which knows every key.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal

from jsonschema import Draft202012Validator, ValidationError
from kubernetes_validate.utils import schema_contents
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from referencing import Registry, Resource

KUBERNETES = "1.34.0"
Json = dict[str, Any]


def check(resource: Mapping[str, Any]) -> None:
    """Checks one resource of Kubernetes, or of KubeRay.

    Raises:
        ValueError: a key is unknown or missing, or a value has another type.
    """
    kinds: dict[str, type[BaseModel]] = {"RayJob": RayJob, "RayCluster": RayCluster}
    if resource["kind"] in kinds:
        kinds[resource["kind"]].model_validate(resource)
        return
    try:
        _validator(resource["kind"].lower(), resource["apiVersion"].replace("/", "-")).validate(resource)
    except ValidationError as error:
        raise ValueError(f"{error.json_path}: {error.message}") from error


@cache
def _validator(kind: str, version: str) -> Draft202012Validator:
    """The package's own `validate` reads its schemas, of megabytes, again each time."""
    folder = f"kubernetes-json-schema/v{KUBERNETES}-local-strict"
    schema, shared = (
        schema_contents(f"{folder}/{name}.json", KUBERNETES) for name in (f"{kind}-{version}", "_definitions")
    )
    registry: Registry[Any] = Resource.from_contents(shared) @ Registry()
    return Draft202012Validator(schema, registry=registry)


def _pod_template(template: Json) -> Json:
    check({"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "any"}, "template": template})
    return template


def _part_of_a_container(name: str) -> AfterValidator:
    def validate(part: Json) -> Json:
        _pod_template({"spec": {"containers": [{"name": "any", name: part}]}})
        return part

    return AfterValidator(validate)


PodTemplate = Annotated[Json, AfterValidator(_pod_template)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel)


class Metadata(_Strict):
    """The operator takes names of 47 characters for a job, and adds to them."""

    name: str = Field(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=47)


class AuthOptions(_Strict):
    """Since operator 1.5.1, for Ray from 2.52 on."""

    mode: Literal["token", "disabled"]


class AutoscalerOptions(_Strict):
    """Of the container beside the head's."""

    idle_timeout_seconds: int
    upscaling_mode: Literal["Default", "Aggressive", "Conservative"]
    resources: Annotated[Json, _part_of_a_container("resources")]
    security_context: Annotated[Json, _part_of_a_container("securityContext")]


class SecretKeyRef(_Strict):
    """One key of a Secret."""

    name: str
    key: str


class ValueFrom(_Strict):
    """The only place for a password here."""

    secret_key_ref: SecretKeyRef


class RedisPassword(_Strict):
    """KubeRay would take `value` too; a password in a file of this repository is refused."""

    value_from: ValueFrom


class GcsFaultToleranceOptions(_Strict):
    """Since operator 1.3."""

    redis_address: str
    redis_password: RedisPassword


class HeadGroupSpec(_Strict):
    """The head's pod."""

    ray_start_params: dict[str, str]
    template: PodTemplate


class WorkerGroupSpec(_Strict):
    """Pods of one kind."""

    group_name: str
    replicas: int = Field(ge=0)
    min_replicas: int = Field(ge=0)
    max_replicas: int = Field(ge=0)
    ray_start_params: dict[str, str]
    template: PodTemplate


class RayClusterSpec(_Strict):
    """A cluster; `gcsFaultToleranceOptions` alone is optional here."""

    ray_version: str
    auth_options: AuthOptions
    enable_in_tree_autoscaling: Literal[True]
    autoscaler_options: AutoscalerOptions
    gcs_fault_tolerance_options: GcsFaultToleranceOptions | None = None
    head_group_spec: HeadGroupSpec
    worker_group_specs: list[WorkerGroupSpec]


class SubmitterConfig(_Strict):
    """Of the Kubernetes job that submits."""

    backoff_limit: int = Field(ge=0)


class RayJobSpec(_Strict):
    """A job with a cluster of its own."""

    entrypoint: str
    backoff_limit: int = Field(ge=0)
    shutdown_after_job_finishes: bool
    ttl_seconds_after_finished: int = Field(ge=0)
    submitter_config: SubmitterConfig
    submitter_pod_template: PodTemplate
    ray_cluster_spec: RayClusterSpec


class RayJob(_Strict):
    """The resource."""

    api_version: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: Metadata
    spec: RayJobSpec


class RayCluster(_Strict):
    """The resource."""

    api_version: Literal["ray.io/v1"]
    kind: Literal["RayCluster"]
    metadata: Metadata
    spec: RayClusterSpec
