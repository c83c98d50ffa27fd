"""Configurations of `ray up`: Ray's own validation takes them, and its own command line the commands in them."""

from __future__ import annotations

import copy
import re
import shlex
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start

from tests.cluster import CLUSTER

NAMES = ("aws.yaml", "gcp.yaml")
Config = dict[str, Any]


def config(name: str) -> Config:
    """The file, as it is."""
    loaded: Config = yaml.safe_load((CLUSTER / name).read_text())
    return loaded


def prepared(name: str) -> Config:
    """The same with Ray's defaults, as `ray up` takes it."""
    complete: Config = prepare_config(config(name))
    return complete


@pytest.mark.parametrize("name", NAMES)
def test_ray_takes_it(name: str) -> None:
    complete = prepared(name)
    validate_config(complete)
    kinds = complete["available_node_types"]
    assert complete["head_node_type"] == "head" and set(kinds) == {"head", "cpu", "gpu"}
    assert kinds["head"]["resources"] == {"CPU": 0}
    assert kinds["cpu"]["min_workers"] == kinds["gpu"]["min_workers"] == 0
    assert complete["max_workers"] == kinds["cpu"]["max_workers"] + kinds["gpu"]["max_workers"]
    assert complete["provider"]["type"] == name.removesuffix(".yaml")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("path", [(), ("auth",), ("docker",), ("available_node_types", "gpu")])
def test_an_unknown_key_is_refused(name: str, path: tuple[str, ...]) -> None:
    wrong = copy.deepcopy(prepared(name))
    node = wrong
    for key in path:
        node = node[key]
    node["idle_timeout"] = 5
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout"):
        validate_config(wrong)


@pytest.mark.parametrize("name", NAMES)
def test_all_nodes_have_the_token_and_ask_for_it(name: str) -> None:
    own = config(name)
    assert own["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        [line] = [each for each in own[key] if "ray start" in each]
        before, _, arguments = line.partition("ray start ")
        variables = before.partition("; ")[2]
        assert "RAY_AUTH_MODE=token" in variables.split()
        context = start.make_context("start", shlex.split(arguments))  # raises where an option is unknown
        assert context.params["head"] == key.startswith("head")
        assert context.params["dashboard_host"] in ("localhost", "127.0.0.1", None)  # jobs come through an SSH tunnel


@pytest.mark.parametrize("name", NAMES)
def test_nodes_reach_the_store_by_a_role_and_no_key_is_written_down(name: str) -> None:
    for node in config(name)["available_node_types"].values():
        role = node["node_config"].get("IamInstanceProfile") or node["node_config"].get("serviceAccounts")
        assert role
    text = (CLUSTER / name).read_text()
    assert not re.search(r"AKIA[0-9A-Z]{16}|aws_secret|private_key|BEGIN", text, re.IGNORECASE)
