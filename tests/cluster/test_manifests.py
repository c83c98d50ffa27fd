"""Manifests of Kubernetes: unknown keys are refused, pods are not root, and what they refer to is there."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.version import Version

from coevo_ray.errors import StoppedError
from tests.cluster import CLUSTER, ROOT
from tests.cluster.kuberay import Json, check
from tests.test_packaging import pins

NAMES = ("rayjob.yaml", "raycluster.yaml", "redis.yaml", "data.yaml")
CRDS = "COEVO_RAY_KUBERAY_CRDS"  # environment variable: a folder with ray.io_rayjobs.yaml and ray.io_rayclusters.yaml
# Maps whose keys are names of one's own.
FREE = ("rayStartParams", "requests", "limits", "labels", "matchLabels", "selector")


def resources(name: str) -> list[Json]:
    """The resources of a file."""
    return [each for each in yaml.safe_load_all((CLUSTER / name).read_text()) if each]


def dicts(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all mappings whose keys are Kubernetes' or KubeRay's."""
    if isinstance(node, dict):
        if not path or path[-1] not in FREE:
            yield path
        for key, value in node.items():
            yield from dicts(value, (*path, key))
    if isinstance(node, list):
        for index, value in enumerate(node):
            yield from dicts(value, (*path, index))


def at(node: Any, path: tuple[Any, ...]) -> Any:
    """What lies at a path."""
    for key in path:
        node = node[key]
    return node


def plain(node: Any) -> Any:
    """A copy in which nothing is shared, as YAML's anchors make it."""
    if isinstance(node, dict):
        return {key: plain(value) for key, value in node.items()}
    return [plain(value) for value in node] if isinstance(node, list) else node


def cluster_spec(name: str) -> Json:
    """The Ray cluster of a file."""
    [resource] = resources(name)
    spec: Json = resource["spec"]
    cluster: Json = spec.get("rayClusterSpec", spec)
    return cluster


def pods(name: str) -> list[Json]:
    """All pod templates of a file."""
    found = []
    for resource in resources(name):
        found += [
            at(resource, path) for path in dicts(resource) if path and path[-1] in ("template", "submitterPodTemplate")
        ]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_it_is_what_kubernetes_and_kuberay_take(name: str) -> None:
    for resource in resources(name):
        check(resource)


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_key_is_refused_wherever_it_is(name: str) -> None:
    for resource in map(plain, resources(name)):
        paths = list(dicts(resource))
        assert len(paths) > 3
        for path in paths:
            wrong = copy.deepcopy(resource)
            at(wrong, path)["backofLimit"] = {}
            with pytest.raises(ValueError, match="backofLimit"):
                check(wrong)


def _closed(schema: Any) -> Any:
    """A schema of an object that allows the properties that it names alone, as the API server's strict check does."""
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    open_one = "additionalProperties" in schema or schema.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not open_one:
        closed["additionalProperties"] = False
    return closed


@pytest.mark.skipif(CRDS not in os.environ, reason=f"{CRDS} does not name a folder with KubeRay's definitions")
@pytest.mark.parametrize(("name", "file"), [("rayjob.yaml", "rayjobs"), ("raycluster.yaml", "rayclusters")])
def test_it_is_what_the_operators_own_definition_takes(name: str, file: str) -> None:
    text = (Path(os.environ[CRDS]) / f"ray.io_{file}.yaml").read_text()  # more than a megabyte
    definition = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    [version] = [each for each in definition["spec"]["versions"] if each["name"] == "v1"]
    schema = _closed(version["schema"]["openAPIV3Schema"])
    [resource] = map(plain, resources(name))
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(resource)
    resource["spec"]["backofLimit"] = 3
    with pytest.raises(jsonschema.ValidationError, match="backofLimit"):
        validator.validate(resource)


@pytest.mark.parametrize("name", ["rayjob.yaml", "raycluster.yaml", "redis.yaml"])
def test_no_container_may_become_root(name: str) -> None:
    templates = pods(name)
    assert templates
    for template in templates:
        pod = template["spec"]["securityContext"]
        assert pod["runAsNonRoot"] is True and pod["runAsUser"] > 0 and pod["fsGroup"] > 0
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in template["spec"]["containers"]:
            rights = container["securityContext"]
            assert rights["allowPrivilegeEscalation"] is False and rights["capabilities"] == {"drop": ["ALL"]}
            assert set(container["resources"]) == {"requests", "limits"}
            if container["name"].startswith("ray-") and "submitter" not in container["name"]:
                requests, limits = (container["resources"][each] for each in ("requests", "limits"))
                assert requests == limits  # Ray counts on what it has been given, and is not evicted first
            mounted = {each["name"] for each in container.get("volumeMounts", [])}
            there = {each["name"] for each in template["spec"].get("volumes", [])}
            claimed = {"data"} if name == "redis.yaml" else set()
            assert mounted == there | claimed


@pytest.mark.parametrize("name", ["rayjob.yaml", "raycluster.yaml"])
def test_the_cluster_is_that_of_the_issue(name: str) -> None:
    spec = cluster_spec(name)
    assert spec["rayVersion"] == pins()["ray"] and Version(spec["rayVersion"]) >= Version("2.52")  # for authOptions
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    assert set(groups) == {"cpu", "gpu"} and groups["gpu"]["replicas"] == groups["gpu"]["minReplicas"] == 0
    assert all(group["minReplicas"] <= group["replicas"] <= group["maxReplicas"] for group in groups.values())
    for template in (spec["headGroupSpec"]["template"], *(group["template"] for group in groups.values())):
        [container] = template["spec"]["containers"]
        names = {each["name"] for each in container["env"]}
        assert names == {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "COEVO_RAY_NODE_WAIT_SECONDS"}
        gpus = container["resources"]["limits"].get("nvidia.com/gpu", 0)
        assert container["image"].endswith("-gpu") == bool(gpus)


def test_what_is_referred_to_is_in_another_file() -> None:
    [claim] = resources("data.yaml")
    for name in ("rayjob.yaml", "raycluster.yaml"):
        volumes = [volume for template in pods(name) for volume in template["spec"].get("volumes", [])]
        names = {each["persistentVolumeClaim"]["claimName"] for each in volumes}
        assert names == {claim["metadata"]["name"]}
    service, redis = resources("redis.yaml")
    options = cluster_spec("raycluster.yaml")["gcsFaultToleranceOptions"]
    [port] = service["spec"]["ports"]
    assert options["redisAddress"] == f"{service['metadata']['name']}:{port['port']}"
    [container] = redis["spec"]["template"]["spec"]["containers"]
    [password] = container["env"]
    assert password["valueFrom"] == options["redisPassword"]["valueFrom"]
    secret = options["redisPassword"]["valueFrom"]["secretKeyRef"]["name"]
    assert f"create secret generic {secret}" in (CLUSTER / "redis.yaml").read_text()


def test_a_run_that_stopped_is_tried_again() -> None:
    """KubeRay counts every exit code but 0 as a failure, 4 among them, and starts the same entrypoint again."""
    [job] = resources("rayjob.yaml")
    assert StoppedError.exit_code != 0
    assert job["spec"]["backoffLimit"] >= 3 and job["spec"]["shutdownAfterJobFinishes"] is True
    assert "--out /data/" in job["spec"]["entrypoint"]  # the volume, which outlives the cluster
    assert (ROOT / "examples" / "digits.yaml").is_file()


def test_the_pages_values_for_ten_nodes_are_those_of_the_files() -> None:
    rows = re.findall(r"^\| (.+?) \| .+? \| (.+?) \| .+? \|$", (CLUSTER / "README.md").read_text(), re.MULTILINE)
    page: dict[str, str] = dict(rows)
    [job] = resources("rayjob.yaml")
    assert page["`backoffLimit` of a job"] == str(job["spec"]["backoffLimit"])
    _, redis = resources("redis.yaml")
    memory = redis["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"]
    assert page["Redis"] == memory.replace("Gi", " GiB")
    for name in ("rayjob.yaml", "raycluster.yaml"):
        spec = cluster_spec(name)
        cpu, gpu = spec["workerGroupSpecs"]
        [worker] = cpu["template"]["spec"]["containers"]
        size = "{cpu} CPUs, {memory}".format(**worker["resources"]["limits"]).replace("Gi", " GiB")
        assert page["CPU workers"] == f"{cpu['minReplicas']} to {cpu['maxReplicas']} of {size}"
        assert page["GPU workers, 8 CPUs and 32 GiB each"] == f"{gpu['minReplicas']} to {gpu['maxReplicas']}"
        for each in worker["env"]:
            assert page[f"`{each['name']}`"] == each["value"]
