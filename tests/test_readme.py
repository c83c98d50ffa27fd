"""The README's Python example runs as it stands, and its paths exist."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from typer.main import get_command

from coevo_ray.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_python_examples_run(tmp_path: Path) -> None:
    first, *others = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in first.splitlines() if line.strip()]) <= 20
    code = "".join([first, *others])  # as someone would type them, one after the other
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    command = [sys.executable, "-c", code]
    result = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=600, env=environment, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "1797 rows, 1438 to train on" in result.stdout
    assert "719 rows were decoded" in result.stdout
    assert "(64,)" in result.stdout
    assert "torch.Size([64])" in result.stdout
    assert re.search(r"^\['(annotate|skip|pseudo_label)' ", result.stdout, re.MULTILINE), result.stdout


def test_commands_that_are_named_have_their_options() -> None:
    assert parse_commands(README) > 15


def parse_commands(page: str) -> int:
    """Parses every command in a page; `...` stands for what is left out.

    Returns:
        How many there were.
    """
    group, found = get_command(app), 0
    joined = re.sub(r"\\\n\s+", "", page)
    for line in re.findall(r"^    (?:\w+=\S+ |\.venv/bin/)?coevo-ray (.+?)(?:\s+#.*)?$", joined, re.MULTILINE):
        name, *rest = shlex.split(line)
        command = group.commands[name].load()  # type: ignore[attr-defined]
        if name in ("sae", "gate") and rest[0] in command.commands:
            command, rest = command.commands[rest[0]], rest[1:]
        command.make_context(name, rest)  # raises where an option or an argument is wrong
        found += 1
    return found


def test_files_that_are_named_exist() -> None:
    package = ROOT / "coevo_ray"
    for name in re.findall(r"`((?:core|pipelines)/\w+\.py|coevolve\.py|config\.py)`", README):
        assert (package / name).is_file(), name
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link
