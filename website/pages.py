"""The site's pages: copies of the repository's own, with their links, and those that are made of code and results.

The pages of docs/ read on their own, beside the files that they name. Here each gets its place on the site, and every
link is turned to where its file is there. A link to a file that has no place is an error.
"""

from __future__ import annotations

import re
import shutil
from os.path import relpath
from pathlib import Path, PurePosixPath

from coevo_ray.errors import InputError
from website import commands, planning, results, settings

ROOT = Path(__file__).parents[1]
OUT = ROOT / "build" / "docs"
_MOVED = {
    "README.md": "index.md",
    "SECURITY.md": "promises.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changes.md",
    "CITATION.cff": "files/CITATION.cff",
    "cluster/README.md": "cluster-recipe.md",
    "benchmarks/README.md": "benchmarks.md",
}
MADE = {
    "commands.md": commands.page,
    "planning.md": planning.page,
    "settings.md": settings.page,
    "results.md": results.page,
}
_FOLDERS = {
    "docs/": "",
    "benchmarks/results/": "results/",
    "examples/": "files/examples/",
    "cluster/": "files/cluster/",
}
_LINK = re.compile(r"\]\((?![a-z]+:)([^)\s#]+)(#[^)\s]*)?\)")


def stage(out: Path = OUT) -> list[str]:
    """Writes all pages below a folder, from nothing.

    Returns:
        Their paths on the site.

    Raises:
        InputError: a page links to a file that the site has no place for.
    """
    shutil.rmtree(out, ignore_errors=True)
    for source in sources():
        target = out / place(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.endswith(".md"):
            text = turn_links(source, (ROOT / source).read_text(encoding="utf-8"))
            target.write_text(text.replace(" +- ", "\u00a0±\u00a0"), encoding="utf-8")  # a figure stays on one line
        else:
            shutil.copyfile(ROOT / source, target)
    for name, make in MADE.items():
        (out / name).write_text(make(), encoding="utf-8")
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


def sources() -> list[str]:
    """Files of the repository that have a place on the site."""
    kinds = {".md", ".json", ".yaml", ".py", ".ipynb", ".svg", ".css", ".cff", ".html"}
    found = [path for folder in _FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in kinds]
    names = {path.relative_to(ROOT).as_posix() for path in found if "__pycache__" not in path.parts}
    return sorted(names | {name for name in _MOVED if (ROOT / name).exists()})


def place(source: str) -> str:
    """The place on the site of a file of the repository.

    Raises:
        InputError: it has none.
    """
    if source in _MOVED:
        return _MOVED[source]
    for folder, there in _FOLDERS.items():
        if source.startswith(folder):
            return there + source.removeprefix(folder)
    raise InputError(f"{source} has no place on the site", "name it without a link, or give it one in website/pages.py")


def turn_links(source: str, text: str) -> str:
    """Turns a page's links to files of the repository to their places on the site."""
    folder = PurePosixPath(source).parent

    def turn(match: re.Match[str]) -> str:
        named = relpath((ROOT / folder / match[1]).resolve(), ROOT)
        made = named.removeprefix("docs/")
        there = made if made in MADE else place(named)
        return f"]({relpath(there, PurePosixPath(place(source)).parent)}{match[2] or ''})"

    return _LINK.sub(turn, text)
