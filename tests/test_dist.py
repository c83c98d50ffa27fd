"""Wheel and sdist hold what they should, and the wheel works from outside of the checkout."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def call(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, and the wheel that is built from it, not from the checkout."""
    folder = tmp_path_factory.mktemp("dist")
    call(sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT), cwd=folder)
    return folder


def tracked(folder: str) -> set[str]:
    """Files of a folder that git knows, as they are in the sdist."""
    return set(call("git", "ls-files", folder, cwd=ROOT).splitlines())


def test_the_wheel_has_the_package_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == tracked("coevo_ray")
    assert "coevo_ray/py.typed" in names


def test_the_sdist_has_what_its_tests_and_docs_need(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    for folder in ("coevo_ray", "tests", "examples", "docs"):
        assert tracked(folder) <= names, folder
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "constraints.txt", "Makefile"} <= names


def test_the_wheel_works_in_an_environment_of_its_own(built: Path, tmp_path: Path) -> None:
    """Its dependencies are those of this environment, on the path behind its own; its package is the wheel's."""
    venv.create(tmp_path / "venv", with_pip=False)
    python = str(tmp_path / "venv" / "bin" / "python")
    own = Path(call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    # Of a folder that a .pth file names, Python reads no .pth files: the checkout's editable install is not among them.
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (wheel,) = built.glob("*.whl")
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index")
    call(*pip, str(wheel), cwd=tmp_path)
    where = call(python, "-c", "import coevo_ray; print(coevo_ray.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(own)
    command = str(tmp_path / "venv" / "bin" / "coevo-ray")
    version = call(command, "--version", cwd=tmp_path).strip()
    assert version in wheel.name
    settings = ("--rows", "100", "--policy", "rotation", "--keep", "0.3", "--epochs", "7")
    planned = call(command, "plan", *settings, "--json", cwd=tmp_path)
    assert json.loads(planned)["samples"] == 210
    assert json.loads(call(command, "doctor", "--json", cwd=tmp_path))["ok"]
