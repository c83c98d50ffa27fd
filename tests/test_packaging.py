"""What is stated about versions is true."""

from __future__ import annotations

import re
from importlib.metadata import metadata, requires
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]


def pins() -> dict[str, str]:
    """Versions in constraints.txt by canonical name."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert lines, "constraints.txt is empty"
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line), line
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def test_every_dependency_is_pinned_inside_its_bounds() -> None:
    pinned = pins()
    checked = 0
    for text in requires("coevo-ray") or []:
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        if name == "coevo-ray":
            continue
        assert name in pinned, f"{name} is not in constraints.txt"
        assert requirement.specifier.contains(Version(pinned[name])), f"{name}: {pinned[name]} is outside {requirement}"
        assert requirement.specifier, f"{name} has no lower bound"
        checked += 1
    assert checked >= 20


def test_licence_and_types_are_shipped() -> None:
    assert metadata("coevo-ray")["License-Expression"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert (ROOT / "coevo_ray" / "py.typed").is_file()


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == metadata("coevo-ray")["Version"]
    papers = {each["identifiers"][0]["value"].removeprefix("arXiv:") for each in citation["references"]}
    assert papers == set(re.findall(r"arXiv (\d+\.\d+)", (ROOT / "docs" / "papers.md").read_text()))


def test_ci_runs_the_readmes_commands() -> None:
    ci, readme = (ROOT / ".ci" / "run").read_text(), (ROOT / "README.md").read_text()
    for command in ("make demo", "make demo-text", "make test"):
        assert command in ci
        assert command in readme
