import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

import coevo_ray
from coevo_ray._version import __version__
from coevo_ray.errors import UsageError
from coevo_ray.runtime.alike import _compare_packages, _compare_places, _told
from coevo_ray.runtime.node_probe import Answer, look, python_version
from coevo_ray.store.location import Location


def _answer(**changed: object) -> Answer:
    same = look(["numpy"], {}, 0.0)
    others = {"pyarrow": "25.0", "torch": "2.9", "torchvision": "0.24", "faiss-cpu": "1.9"}
    return {**same, "packages": {**others, "pillow": "12", "safetensors": "1", **same["packages"]}, **changed}


def test_the_probe_says_what_is_here(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.touch()
    missing = tmp_path / "missing"
    places = {str(there): True, str(missing): True, Location(str(tmp_path)).uri: False, f"file://{missing}": False}
    answer = look(["numpy", "no-such-package"], places, 0.0)
    assert (answer["python"], answer["coevo-ray"]) == (python_version(), __version__)
    assert answer["packages"]["no-such-package"] is None
    assert answer["packages"]["numpy"]
    assert answer["unseen"].keys() == {str(missing), f"file://{missing}"}


def test_nodes_that_are_not_alike_are_named_with_what_they_lack(capsys: pytest.CaptureFixture[str]) -> None:
    _compare_packages({"10.0.0.1": _answer()})
    with pytest.raises(UsageError, match=r"node 10\.0\.0\.2 does not have coevo-ray"):
        _compare_packages({"10.0.0.1": _answer(), "10.0.0.2": _answer(**{"coevo-ray": None})})
    with pytest.raises(UsageError, match=rf"10\.0\.0\.2, 10\.0\.0\.3 has coevo-ray 0\.0\.1.*{__version__}"):
        old = _answer(**{"coevo-ray": "0.0.1"})
        _compare_packages({"10.0.0.3": old, "10.0.0.1": _answer(), "10.0.0.2": old})
    with pytest.raises(UsageError, match=r"node 10\.0\.0\.2 has python 3\.8"):
        _compare_packages({"10.0.0.2": _answer(python="3.8")})
    lacking = _answer()["packages"] | {"numpy": None}
    with pytest.raises(UsageError, match=r"node 10\.0\.0\.2 does not have numpy"):
        _compare_packages({"10.0.0.2": _answer(packages=lacking)})
    assert capsys.readouterr().err.count("numpy") == 0
    _compare_packages({"10.0.0.2": _answer(packages=_answer()["packages"] | {"numpy": "1.0"})})
    assert "node 10.0.0.2 has numpy 1.0" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"node b does not see /data/pool \(it is not there\)"):
        _compare_places({"a": {"unseen": {}}, "b": {"unseen": {"/data/pool": "it is not there"}}})
    assert _told([f"n{i}" for i in range(9)]) == "each of the nodes n0, n1, n2, n3, n4 and 4 more"


_CLUSTER = """
import subprocess, sys, time
import ray
from ray.cluster_utils import Cluster
from coevo_ray.errors import UsageError
from coevo_ray.runtime.session import ray_session
from coevo_ray.store.location import Location

other, place = sys.argv[1:]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
ray.init(address=cluster.address, log_to_driver=False)
with ray_session(sources=[Location(place)]):
    pass
print("alike", flush=True)
try:
    with ray_session(sources=[Location(place + "/missing")]):
        pass
except UsageError as error:
    print(error.cause, flush=True)
start = [other, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1", "--address", cluster.address]
node = subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
try:
    while sum(each["Alive"] for each in ray.nodes()) < 2:
        assert node.poll() is None
        time.sleep(0.2)
    with ray_session(sources=[Location(place)]):
        pass
except UsageError as error:
    print(error.cause, flush=True)
finally:
    node.terminate()
    node.wait()
    ray.shutdown()
    cluster.shutdown()
"""


def _with_node(python: Path, place: Path) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", _CLUSTER, str(python), str(place)],
        env=environment,
        cwd=place,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("version", [None, "0.0.9"])
def test_a_node_without_the_package_or_with_another_version_is_named(tmp_path: Path, version: str | None) -> None:
    """A node whose Python is an environment of its own: all packages of this one, but for ours."""
    venv.create(tmp_path / "other", with_pip=False)
    packages = tmp_path / "other" / "lib" / f"python{python_version()}" / "site-packages"
    own = [sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"]]
    (packages / "others.pth").write_text("\n".join(own))  # folders alone: the .pth files there are not read
    if version is not None:
        shutil.copytree(Path(coevo_ray.__file__).parent, packages / "coevo_ray")
        (packages / "coevo_ray" / "_version.py").write_text(f'__version__ = "{version}"\n')
    alike, unseen, odd = _with_node(tmp_path / "other" / "bin" / "python", tmp_path)
    assert alike == "alike"
    assert f"does not see {tmp_path}/missing (it is not there)" in unseen
    there = "does not have coevo-ray" if version is None else f"has coevo-ray {version}"
    assert there in odd
    assert odd.endswith(f"this process has coevo-ray {__version__}")
