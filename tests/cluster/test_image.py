"""The image: linted, on the Ray that is pinned, built from what .dockerignore lets through, named alike everywhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pathspec
import pytest

import coevo_ray
from tests.cluster import CLUSTER, ROOT
from tests.test_packaging import pins

DOCKERFILE = (CLUSTER / "Dockerfile").read_text()
TOOLS = Path(sys.executable).parent
# Docker's patterns are Git's as long as they begin at the root, or with **/.
IGNORE = pathspec.PathSpec.from_lines("gitignore", (ROOT / ".dockerignore").read_text().splitlines())


def context() -> list[Path]:
    """The files of this repository that a build is sent, relative to its root."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        files = [Path(name) for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    else:  # a source distribution
        files = [path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file()]
    return [path for path in files if not IGNORE.match_file(path.as_posix())]


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run(
        [str(TOOLS / "hadolint"), str(CLUSTER / "Dockerfile")], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_stands_on_the_ray_that_is_pinned_and_runs_as_nobody_special() -> None:
    [base] = re.findall(r"^FROM (.+)$", DOCKERFILE, re.MULTILINE)
    parts = re.fullmatch(r"rayproject/ray:([\d.]+)-py(\d+)-\$\{DEVICE\}", base)
    assert parts
    version, python = parts.groups()
    assert version == pins()["ray"]
    assert python == "311"  # CI's Python, with which constraints.txt is tested
    assert re.findall(r"^USER (.+)$", DOCKERFILE, re.MULTILINE) == ["1000:100"]
    installs = re.findall(r"pip install (.+)$", DOCKERFILE, re.MULTILINE)
    assert installs and all("--constraint constraints.txt" in each or "--no-deps" in each for each in installs)


def test_its_name_is_the_packages_version_everywhere() -> None:
    found = 0
    for path in sorted(CLUSTER.iterdir()):
        for tag in re.findall(r"coevo-ray:([\w.]+)(?:-gpu)?\b", path.read_text()):
            assert tag == coevo_ray.__version__, path.name
            found += 1
    assert found >= 12


def test_a_build_is_sent_what_it_copies_and_little_else() -> None:
    sent = context()
    lines = re.findall(r"^COPY --chown=\S+ (.+)$", DOCKERFILE, re.MULTILINE)
    copied = [part for line in lines for part in line.split()[:-1]]
    assert len(copied) >= 7
    for name in copied:
        assert any(path == Path(name) or Path(name) in path.parents for path in sent), name
    assert {path.parts[0] for path in sent} == {Path(name).parts[0] for name in copied}
    assert sum((ROOT / path).stat().st_size for path in sent) < 8 << 20
    for name in (
        ".venv/lib/x.py",
        "runs/digits/rows.parquet",
        ".git/config",
        "coevo_ray/__pycache__/x.pyc",
        "tests/x.py",
    ):
        assert IGNORE.match_file(name), name


@pytest.mark.slow
def test_the_package_is_built_from_what_is_sent(tmp_path: Path) -> None:
    """The Dockerfile's two installations, from a copy of the build's context, into an environment beside this one's."""
    folder = tmp_path / "context"
    for path in context():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, folder / path)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    site = tmp_path / "site"
    first = folder.with_name("first")  # the layer of dependencies has two modules of the package
    for name in ("pyproject.toml", "README.md", "LICENSE", "coevo_ray/__init__.py", "coevo_ray/_version.py"):
        (first / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / name, first / name)
    for source in (first, folder):
        done = subprocess.run(
            [*pip, "--upgrade", "--target", str(site), str(source)],
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "coevo_ray", "--help"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (site / "coevo_ray" / "cli").is_dir() and (site / "coevo_ray" / "py.typed").is_file()
