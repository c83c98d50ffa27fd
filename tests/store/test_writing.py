from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from coevo_ray.errors import CoevoError, StoppedError, UsageError
from coevo_ray.store import lease, lease_cells
from coevo_ray.store import writing as module
from coevo_ray.store.artifact import begin, begin_with, finish
from coevo_ray.store.data_files import write_blob
from coevo_ray.store.location import LEASE, Location
from coevo_ray.store.manifest import MANIFEST, load_manifest
from coevo_ray.store.process import boot_clock
from coevo_ray.store.writing import check_leases, claim, commit, committing, writing, writing_all

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys
from coevo_ray.errors import CoevoError
from coevo_ray.store.artifact import begin, finish
from coevo_ray.store.data_files import write_blob
from coevo_ray.store.location import Location
from coevo_ray.store.writing import claim, writing

place = Location.parse(sys.argv[1])
try:
    with writing(place):
        claim(place, float(sys.argv[2]))
        begin(place, "pool", {}, {})
        print("holding", flush=True)
        sys.stdin.readline()
        finish(place, "pool", {}, {}, [write_blob(place, "a.bin", b"theirs")], {"who": "them"})
except CoevoError as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
"""
# The same, which stands still once more just before the bytes of its manifest are written.
LATE_HOLDER = (
    """
from coevo_ray.store import location

written = location._write_local


def late(path, *more, **options):
    if path.name == "manifest.json":
        print("at its manifest", flush=True)
        sys.stdin.readline()
    return written(path, *more, **options)


location._write_local = late
"""
    + HOLDER
)


@pytest.fixture
def place(tmp_path: Path) -> Location:
    return Location.parse(tmp_path / "deep" / "artifact")


@contextmanager
def another_process(place: Location, seconds: float = 60, code: str = HOLDER) -> Iterator[subprocess.Popen[str]]:
    """A process that has begun the artifact and finishes it once it gets a line."""
    command = [sys.executable, "-c", code, place.path, str(seconds)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline() == "holding\n"
    try:
        yield process
    finally:
        process.kill()
        process.wait(20)


def make(place: Location, who: str = "us") -> None:
    with writing(place):
        if begin(place, "pool", {}, {}) is None:
            finish(place, "pool", {}, {}, [write_blob(place, "a.bin", who.encode())], {"who": who})


def commit_manifest(place: Location) -> None:
    commit(place, MANIFEST, b"{}")


def names(place: Location) -> set[str]:
    return {file.name for file in Path(place.path).iterdir()}


def test_a_lease_is_held_while_an_artifact_is_made_and_is_no_data(place: Location) -> None:
    with writing(place):
        assert not Path(place.path).exists()
        assert begin(place, "pool", {}, {}) is None
        assert LEASE in names(place)
        assert place.files(recursive=True) == ["_started.json"]
        with writing(place):
            # Without data a begin with other settings is no change of anything.
            assert begin(place, "pool", {"other": 1}, {}) is None
        finish(place, "pool", {"other": 1}, {}, [], {})
    assert names(place) == {"manifest.json"}


def test_a_finished_artifact_needs_no_lease(place: Location) -> None:
    make(place)
    with another_process_in(place), writing(place):
        assert begin(place, "pool", {}, {}) == load_manifest(place)
        assert not Path(place.child(LEASE).path).exists()


@contextmanager
def another_process_in(place: Location) -> Iterator[None]:
    """The folder can only be read."""
    Path(place.path).chmod(0o555)
    try:
        yield
    finally:
        Path(place.path).chmod(0o755)


def test_a_second_process_is_refused_and_changes_nothing(place: Location) -> None:
    with another_process(place) as process:
        before = {file.name: file.read_bytes() for file in Path(place.path).iterdir()}
        started = time.monotonic()
        with pytest.raises(UsageError, match=f"is being written: process {process.pid} on ") as caught:
            make(place)
        assert time.monotonic() - started < 5
        assert caught.value.exit_code == 2
        assert {file.name: file.read_bytes() for file in Path(place.path).iterdir()} == before
        process.communicate("go\n", timeout=60)
        assert process.returncode == 0
    make(place)
    assert load_manifest(place).summary == {"who": "them"}


def test_a_killed_holder_is_followed_at_once(place: Location) -> None:
    with another_process(place) as process:
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        started = time.monotonic()
        make(place)  # nobody has reaped it: a zombie counts as ended
        assert time.monotonic() - started < 5
    assert load_manifest(place).summary == {"who": "us"}


def test_a_holder_that_was_suspended_notices_before_its_manifest(place: Location) -> None:
    with another_process(place, seconds=1) as process:
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(1.5)
        make(place)
        os.kill(process.pid, signal.SIGCONT)
        said, _ = process.communicate("go\n", timeout=60)
        assert process.returncode == StoppedError.exit_code
        assert "the lease on" in said and "is lost" in said and "remedy:" in said
    assert load_manifest(place).summary == {"who": "us"}
    assert names(place) == {"a.bin", "manifest.json"}


def test_nobody_takes_over_while_a_suspended_holder_writes_its_manifest(
    place: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_cells, "_LOCK_S", 0.5)
    with another_process(place, seconds=1, code=LATE_HOLDER) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        assert process.stdout.readline() == "at its manifest\n"
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(1.5)
        with pytest.raises(UsageError, match=f"is being written: process {process.pid} on "):
            make(place)
        assert MANIFEST not in names(place)
        os.kill(process.pid, signal.SIGCONT)
        process.communicate("go\n", timeout=60)
        assert process.returncode == 0
    make(place)
    assert load_manifest(place).summary == {"who": "them"}


@pytest.mark.parametrize("step", [commit_manifest, lambda place: begin_with(place, "pool", {"other": 1}, {})])
def test_a_lease_that_is_lost_at_the_last_moment_changes_nothing(
    place: Location, step: Callable[[Location], None]
) -> None:
    make(place)
    before = place.child(MANIFEST).read_bytes()
    with pytest.raises(StoppedError, match="is lost"), writing(place, at_once=True):
        place.child(LEASE).write_json({**place.child(LEASE).read_json(), "owner": "another one"})
        step(place)
    assert place.child(MANIFEST).read_bytes() == before
    assert names(place) == {"a.bin", MANIFEST, LEASE}  # which is not ours to delete


def test_a_holder_that_works_for_longer_than_its_lease_renews_it(place: Location) -> None:
    with another_process(place, seconds=1) as process:
        time.sleep(2.5)
        with pytest.raises(UsageError):
            make(place)
        process.communicate("go\n", timeout=60)
        assert process.returncode == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, StoppedError("stopped by SIGTERM", "again")])
def test_an_error_gives_the_lease_back(place: Location, error: BaseException) -> None:
    with pytest.raises(type(error) if isinstance(error, CoevoError) else KeyboardInterrupt), writing(place):
        begin(place, "pool", {}, {})
        raise error
    assert names(place) == {"_started.json"}


def test_folders_made_for_a_refused_attempt_are_removed(place: Location, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="before anything"), writing(place, at_once=True):
        assert LEASE in names(place)
        raise ValueError("before anything was written")
    assert list(tmp_path.iterdir()) == []


def test_blocks_of_one_thread_are_nested_and_another_thread_is_refused(place: Location, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "deep")
    same = Location.parse(tmp_path / "link" / "artifact")
    caught: list[BaseException] = []

    def other() -> None:
        try:
            make(place)
        except UsageError as error:
            caught.append(error)

    with writing_all([place, place.child("graph")], at_once=True):
        with writing(same, at_once=True):
            make(place.child("graph"))
        assert LEASE in names(place)  # the inner blocks gave nothing back
        assert LEASE in names(place.child("graph"))
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(60)
        assert len(caught) == 1 and f"process {os.getpid()} " in str(caught[0])
    make(place)


def test_work_stops_once_its_lease_is_known_to_be_lost(place: Location) -> None:
    with writing(place):
        check_leases()
        claim(place, 0.6)
        check_leases()
        place.child(LEASE).delete_file()
        deadline = time.monotonic() + 20
        with pytest.raises(StoppedError, match="is lost"):
            while time.monotonic() < deadline:
                time.sleep(0.05)
                check_leases()
        with pytest.raises(StoppedError, match="is lost"), committing(place):
            pass


def test_whoever_wakes_after_its_time_asks_before_it_goes_on(place: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    with writing(place, at_once=True):
        check_leases()
        place.child(LEASE).write_json({"owner": "another one"})
        check_leases()  # its time is not over: nothing is read
        now = boot_clock()
        monkeypatch.setattr(lease, "boot_clock", lambda: now + 61)  # as after a minute in which the machine was asleep
        with pytest.raises(StoppedError, match="is lost"):
            check_leases()


def test_a_fork_keeps_the_lease_of_its_parent(place: Location) -> None:
    with writing(place, at_once=True):
        pid = os.fork()
        if pid == 0:
            try:
                for scope in list(module._SCOPES.by_folder.values()):
                    scope.end()
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        with committing(place):
            pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="cannot write to"):
        make(Location.parse(tmp_path / "file" / "artifact"))


# What begins or finishes an artifact for a caller that holds the lease.
_WITHIN = {"pipelines/factors/codes.py": "score", "pipelines/encode/finish.py": "make_contributions"}


def test_whatever_writes_an_artifact_holds_its_lease() -> None:
    steps, found = {"begin", "begin_with", "finish"}, set()
    for path in (ROOT / "coevo_ray").rglob("*.py"):
        imported = {
            (node.module, alias.name)
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        name = str(path.relative_to(ROOT / "coevo_ray"))
        if {("coevo_ray.store.artifact", step) for step in steps} & imported:
            found.add(name)
            held = {alias for module, alias in imported if module == "coevo_ray.store.writing"}
            changing = "changing()" in path.read_text()
            assert held & {"writing", "writing_all"} or changing or name in _WITHIN, f"{name} takes no lease"
    assert len(found) > 10 and set(_WITHIN) <= found
