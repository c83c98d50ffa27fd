"""What the README and the pages in docs/ hold: commands, Python, links and anchors, for the tests that try them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from typer.main import get_command

from coevo_ray.cli import app

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("**/*.md")))
_COMMAND = re.compile(r"(?:\w+=\S+ |\.venv/bin/)*coevo-ray (.+)")


def text_of(page: str) -> str:
    """The text of a page, by its path in the repository."""
    return (ROOT / page).read_text(encoding="utf-8")


def shell_lines(text: str) -> list[str]:
    """Lines of a page's shell blocks, fenced or indented, joined at backslashes and without comments."""
    fenced = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    without = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    indented = ["\n".join(line[4:] for line in without.splitlines() if line.startswith("    "))]
    joined = re.sub(r"\\\n\s*", "", "\n".join([*fenced, *indented]))
    return [line for line in (re.sub(r"(?:^|\s+)#.*$", "", each).strip() for each in joined.splitlines()) if line]


def parse_commands(text: str) -> int:
    """Parses every command of a page, with its arguments and options.

    Returns:
        How many there were.

    Raises:
        click's UsageError: an option or an argument is wrong.
    """
    group: Any = get_command(app)
    found = 0
    for line in shell_lines(text):
        match = _COMMAND.fullmatch(line)
        if match is None:
            continue
        name, *rest = shlex.split(match[1])
        command = group.commands[name].load()
        if rest and rest[0] in getattr(command, "commands", {}):
            command, rest = command.commands[rest[0]], rest[1:]
        command.make_context(name, rest)
        found += 1
    return found


def python_blocks(text: str) -> list[str]:
    """The Python of a page, block by block."""
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def links(text: str) -> list[tuple[str, str]]:
    """Links of a page to files of the repository: path as written, and anchor; either may be empty."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"\]\((?![a-z]+:)([^)#\s]*)(?:#([\w-]+))?\)", prose)


def anchors(text: str) -> set[str]:
    """Anchors of a page: of its headings, as GitHub and the site make them, and those that are written out."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    made = {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
    return made | set(re.findall(r'<a id="([\w-]+)">', text))


def run_python(code: str, folder: Path, timeout_s: float = 600) -> str:
    """Runs code as a program of its own, in a folder.

    Returns:
        What it wrote to stdout.
    """
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
