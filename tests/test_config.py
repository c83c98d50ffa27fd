from __future__ import annotations

import json
import tarfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from coevo_ray.app.demo import demo_config
from coevo_ray.config import (
    EncodeConfig,
    EvidenceConfig,
    GateSettings,
    RunConfig,
    SaeConfig,
    as_run_config,
    as_settings,
    load_config,
    make_config,
)
from coevo_ray.config.gate import LATER_SETTINGS
from coevo_ray.core.gate.config import GateConfig, GateRule
from coevo_ray.errors import UsageError
from coevo_ray.store.digests import digest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.yaml"))
FORMER = Path(__file__).parent / "former" / "0.1.0.tar.gz"
FORMER_GATES = ("gate/gate.json", "gate/_started.json", "run/gate/gate.json", "run/gate/manifest.json")
SMALL: dict[str, Any] = {"out": "x", "pool": {"sources": ["a"]}, "encode": {"priors": ["efficientnet_lite:0"]}}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.name)
def test_every_shipped_yaml_is_a_run(path: Path) -> None:
    assert load_config(path).pool.sources


def test_the_demo_is_the_example_of_messy_digits() -> None:
    example = next(p for p in EXAMPLES if p.name == "messy_digits.yaml")
    assert demo_config("here") == load_config(example, out="here")


def test_the_demo_of_texts_is_the_example_of_messy_texts() -> None:
    example = next(p for p in EXAMPLES if p.name == "messy_texts.yaml")
    assert demo_config("here", texts=True) == load_config(example, out="here")
    assert (demo_config(texts=True).out, demo_config().out) == ("coevo-demo-text", "coevo-demo")


def test_the_cluster_job_runs_the_digits_example() -> None:
    [job] = yaml.safe_load_all((Path(__file__).parents[1] / "cluster" / "rayjob.yaml").read_text())
    assert job["kind"] == "RayJob"
    assert "coevo-ray run /opt/coevo-ray/examples/digits.yaml" in job["spec"]["entrypoint"]


def _with(path: str, value: Any) -> dict[str, Any]:
    content = yaml.safe_load(yaml.safe_dump(SMALL))
    *parents, last = path.split(".")
    place = content
    for name in parents:
        place = place.setdefault(name, {})
    place[last] = value
    return dict(content)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("colour", "red", "unknown key colour"),
        ("pool.shards", 3, "unknown key pool.shards"),
        ("encode.compute.cpu", 3, "unknown key encode.compute.cpu"),
        ("pool.sources", [], "pool.sources"),
        ("pool.test_fraction", 1.0, "pool.test_fraction"),
        ("encode.dim", 1, "encode.dim"),
        ("encode.reference", "other:1", "not one of the priors"),
        ("encode.priors", ["a:b", "a:b"], "named twice"),
        ("encode.shared", 10.5, "whole rows"),
        ("sae", {"latents": 4, "k": 5}, "5 active factors of only 4"),
        ("gate", None, "there is no gate"),
        ("train", {"policies": ["nice"]}, "unknown policy 'nice'"),
        ("train", {"policy_options": {"scored": {}}}, "policy_options for ['scored']"),
        ("train", {"policy_options": {"factors": {"unbiased": True}}}, "unbiased is for all policies"),
        ("train", {"policies": ["scored"], "policy_options": {"scored": {"penalty": 0}}}, "need penalty > 0"),
        ("train", {"policies": ["full", "full"]}, "named twice"),
        ("train", {"keep": 0}, "train.keep"),
    ],
)
def test_mistakes_are_named_before_any_work(path: str, value: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_config(RunConfig, _with(path, value), "test")
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


def test_missing_keys_are_named() -> None:
    with pytest.raises(UsageError, match="encode is missing"):
        make_config(RunConfig, {"out": "x", "pool": {"sources": ["a"]}}, "test")


@pytest.mark.parametrize(("text", "message"), [("", "no settings"), ("a: [", "not YAML"), ("- 1", "no settings")])
def test_files_that_are_no_configuration(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(UsageError, match=message):
        load_config(tmp_path / "run.yaml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no\.yaml"):
        load_config(tmp_path / "no.yaml")


def test_compute_does_not_shape_content() -> None:
    one = make_config(RunConfig, SMALL, "test").encode.content()
    two = make_config(RunConfig, _with("encode.compute", {"actors": 4}), "test").encode.content()
    assert one == two


def test_settings_cannot_be_changed_later() -> None:
    config = make_config(RunConfig, SMALL, "test")
    with pytest.raises(ValueError, match="frozen"):
        config.out = "y"  # type: ignore[misc]  # that it is refused is what is tested


def test_every_setting_of_the_gates_rule_is_written_once() -> None:
    """The model's field is the dataclass's: default, bounds and description."""
    for each in fields(GateRule):
        model = GateSettings.model_fields[each.name]
        assert (model.default, model.description) == (each.default, each.metadata["description"]), each.name
        for bound in ("ge", "le"):
            if bound in each.metadata:
                beyond = each.metadata[bound] + (1 if bound == "le" else -1)
                with pytest.raises(UsageError, match=each.name):
                    make_config(GateSettings, {"power": 1, each.name: beyond}, "gate")
                with pytest.raises(UsageError, match=each.name):
                    GateConfig(**{"classes": 2, "round_size": 1, "power": 1, each.name: beyond})
    with pytest.raises(UsageError, match="last_power without power"):
        make_config(GateSettings, {"last_power": 1}, "gate")


def test_the_gates_rule_is_made_of_its_settings() -> None:
    changed: dict[str, Any] = {
        "vote": "classes",
        "apart": 0.5,
        "copies": False,
        "power": 2.0,
        "typical": 0.0,
        "rule": "compat",
        "max_rounds": 7,
    }
    rule = GateSettings(**changed).rule_for(200, 3)
    assert {name: getattr(rule, name) for name in changed} == changed
    assert (rule.classes, rule.round_size, rule.max_labels) == (3, 6, 200)


def test_a_gate_of_the_first_version_has_the_settings_that_are_written_today() -> None:
    with tarfile.open(FORMER) as archive:
        written = {name: json.load(archive.extractfile(f"./{name}")) for name in FORMER_GATES}  # type: ignore[arg-type]
    of_gate, of_run = written["gate/gate.json"], written["run/gate/gate.json"]
    today = GateSettings(seed_fraction=0.1, round_fraction=0.1)
    later = dict.fromkeys(LATER_SETTINGS)  # given by nobody, they are not in the content
    assert today.model_dump(mode="json") == of_gate["settings"] | later
    assert today.content() == written["gate/_started.json"]["config"]
    assert today.model_copy(update={"max_rounds": 2}).model_dump(mode="json") == of_run["settings"] | later
    manifest = written["run/gate/manifest.json"]
    assert digest(today.model_copy(update={"max_rounds": 2}).content()) == manifest["config_hash"]


@pytest.mark.parametrize(("rows", "classes", "expected"), [(1000, 3, 50), (100, 10, 20), (10**6, 10, 2500), (5, 10, 5)])
def test_random_first_labels(rows: int, classes: int, expected: int) -> None:
    assert GateSettings().seed_rows(rows, classes) == expected
    assert GateSettings(max_seed_rows=30).seed_rows(rows, classes) == min(expected, 30)


@pytest.mark.parametrize("form", [str, Path])
def test_settings_come_as_a_model_a_dict_or_a_file(tmp_path: Path, form: Any) -> None:
    wanted = SaeConfig(latents=64, k=4)
    assert as_settings(SaeConfig, wanted, "sae") is wanted
    assert as_settings(SaeConfig, {"latents": 64, "k": 4}, "sae") == wanted
    file = tmp_path / "settings.yaml"
    file.write_text("latents: 64\nk: 4\n")
    assert as_settings(SaeConfig, form(file), "sae") == wanted
    file.write_text(yaml.safe_dump({**SMALL, "sae": {"latents": 64, "k": 4}}))  # a run's file
    assert as_settings(SaeConfig, form(file), "sae") == wanted
    run = as_run_config(form(file))
    assert run == as_run_config(run) == as_run_config({**SMALL, "sae": wanted}) == load_config(file)


def test_settings_that_are_wrong_are_named_with_their_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("sae: {latent: 3}")
    with pytest.raises(UsageError, match=r"settings.yaml: sae: unknown key latent"):
        as_settings(SaeConfig, file, "sae")
    file.write_text("sae: 3")
    with pytest.raises(UsageError, match="has no settings under sae"):
        as_settings(SaeConfig, file, "sae")
    with pytest.raises(UsageError, match=r"cannot read the configuration .*nowhere.yaml"):
        as_settings(SaeConfig, tmp_path / "nowhere.yaml", "sae")
    with pytest.raises(UsageError, match="sae: EvidenceConfig is no SaeConfig"):
        as_settings(SaeConfig, EvidenceConfig(), "sae")
    with pytest.raises(UsageError, match="unknown key latents"):
        as_run_config({**SMALL, "latents": 3})


def test_half_a_character_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"run: 'name' has half of a character: 'a\\ud83d'"):
        make_config(RunConfig, {"pool": {"sources": [{"uri": "x", "name": "a\ud83d"}]}}, "run")


def test_an_infinite_shared_set_is_refused() -> None:
    with pytest.raises(UsageError, match="shared"):
        make_config(EncodeConfig, {"priors": [{"name": "efficientnet_lite:0"}], "shared": float("inf")}, "encode")
