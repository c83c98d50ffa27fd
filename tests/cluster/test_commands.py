"""Every command of coevo-ray in cluster/ is one that the command line takes, with files that are valid."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from coevo_ray.cli import app
from coevo_ray.config import load_config
from tests.cluster import CLUSTER, ROOT
from tests.pages import parse_commands

GROUP = get_command(app)
NAMES = tuple(GROUP.commands)  # type: ignore[attr-defined]  # typer types a group as a command
FILES = sorted(path for path in CLUSTER.iterdir() if path.is_file())
WAYS = (
    r"^[#\s]*(?:\w+=\S+ )*coevo-ray (?P<command>.+)$",  # a line of its own
    r"`coevo-ray (?P<command>[^`]+)`",
    r"entrypoint: coevo-ray (?P<command>.+)$",
    r"sbatch .*?cluster/slurm\.sh (?P<command>.+)$",
)
MOST = {"rayjob.yaml": 1, "slurm.sh": 3, "README.md": 7}  # at least so many


def commands(text: str) -> Iterator[str]:
    """The commands in a text, without the name of the program."""
    joined = re.sub(r"\\\n\s+", "", text)
    for way in WAYS:
        for found in re.finditer(way, joined, re.MULTILINE):
            command = found["command"].strip()
            if command.split()[0] in NAMES:
                yield command


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_command_line_takes_them(path: Path) -> None:
    text = path.read_text()
    found = list(commands(text))
    assert len(found) >= MOST.get(path.name, 0)
    # None is written in a way that is not looked for.
    assert len(re.findall(rf"coevo-ray (?:{'|'.join(NAMES)})\b", text)) <= len(found)
    for command in (each for each in found if len(each.split()) > 1):  # else it is only named
        assert parse_commands(f"    coevo-ray {command}\n") == 1, command
        words = shlex.split(command)
        if words[0] == "submit":
            inner = next(index for index, word in enumerate(words) if index and word in NAMES)
            assert parse_commands(f"    coevo-ray {shlex.join(words[inner:])}\n") == 1, command
            words = words[inner:]
        _check_file(words)


def _check_file(words: list[str]) -> None:
    """The file of a `run` is valid; one that is called mine is the reader's own."""
    for name, file in itertools.pairwise(words):
        if name != "run" or file.startswith("mine"):
            continue
        local = ROOT / file.removeprefix("/opt/coevo-ray/")
        assert load_config(local).out, file


def test_paths_in_the_image_are_copied_there() -> None:
    dockerfile = (CLUSTER / "Dockerfile").read_text()
    assert "WORKDIR /opt/coevo-ray" in dockerfile and "examples ./examples" in dockerfile
    [job] = yaml.safe_load_all((CLUSTER / "rayjob.yaml").read_text())
    assert "/opt/coevo-ray/examples/digits.yaml" in job["spec"]["entrypoint"]


def test_the_page_names_every_file_and_no_other() -> None:
    page = (CLUSTER / "README.md").read_text()
    there = {path.name for path in FILES} - {"README.md"}
    table = re.findall(r"^\| (`[^|]+) \|", page.split("## Any Ray cluster")[0], re.MULTILINE)
    assert {name for row in table for name in re.findall(r"`([\w.-]+)`", row)} == there
    for path in re.findall(r"cluster/([\w.-]+\.(?:yaml|sh))", "".join(each.read_text() for each in FILES)):
        assert path in there, path
