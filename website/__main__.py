"""Builds the site into build/site: `python -m website`. A warning, such as a dead link, is an error."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

from website.pages import ROOT, stage


def main() -> int:
    """Makes the pages, then the site; returns the builder's exit code."""
    stage()
    if find_spec("zensical") is None:  # on Python 3.10, for which it is not made
        sys.stderr.write("the pages are made and their files are there; the builder of the site needs Python 3.11\n")
        return 0
    build = [
        sys.executable,
        "-m",
        "zensical",
        "build",
        "--strict",
        "--clean",
        "--config-file",
        str(ROOT / "mkdocs.yml"),
    ]
    return subprocess.run(build, check=False, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
