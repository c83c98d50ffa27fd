"""Disks that are full or read-only: real commands on a real tmpfs, where this process may mount one."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coevo_ray.errors import StoppedError
from coevo_ray.store.journal import Journal
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import load_manifest
from tests.command_line import Command

Mount = Callable[..., Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts something on a new folder; unmounted in the end."""
    mounted: list[Path] = []

    def at(*arguments: str, name: str = "disk") -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        try:
            ended = subprocess.run(["mount", *arguments, str(folder)], capture_output=True, text=True)
        except FileNotFoundError:
            pytest.skip("there is no mount")
        if ended.returncode:
            pytest.skip(f"this process may not mount: {ended.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield at
    for folder in reversed(mounted):
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A hundred images of 12 KB that no codec makes smaller."""
    random = np.random.default_rng(0)
    for i in range(100):
        file = tmp_path / "images" / "ab"[i % 2] / f"{i:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file)
    return tmp_path / "images"


def checksums(folder: Path) -> list[tuple[str, str]]:
    return [(file.path, file.sha256) for file in load_manifest(Location.parse(folder)).files]


def test_ingest_on_a_full_disk_goes_on_once_there_is_room(
    mount: Mount, images: Path, tmp_path: Path, coevo_ray: Command, ray_local: None
) -> None:
    disk = mount("-t", "tmpfs", "-o", "size=700k", "tmpfs")
    command = ("ingest", str(images), "--shard-rows", "20", "--out")
    ended = coevo_ray(*command, str(disk / "pool"))
    assert ended.returncode == 4, ended.stderr
    assert (
        "No space left on device" in ended.stderr and "free space" in ended.stderr and "Traceback" not in ended.stderr
    )
    assert not (disk / "pool" / "manifest.json").exists()
    assert list((disk / "pool").glob("*.parquet")), "it had begun"
    assert coevo_ray(*command, str(disk / "pool")).returncode in (2, 4)  # as full as before
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
    assert coevo_ray(*command, str(disk / "pool")).returncode == 0
    assert coevo_ray(*command, str(tmp_path / "pool")).returncode == 0
    assert checksums(disk / "pool") == checksums(tmp_path / "pool")
    assert not list((disk / "pool").glob("*.tmp-*"))


def test_a_disk_without_room_for_a_lease_is_told_before_work(mount: Mount, images: Path, coevo_ray: Command) -> None:
    disk = mount("-t", "tmpfs", "-o", "size=64k", "tmpfs")
    with pytest.raises(OSError, match="No space left"):
        (disk / "full").write_bytes(bytes(1 << 20))
    ended = coevo_ray("ingest", str(images), "--out", str(disk / "pool"))
    assert ended.returncode == 4, ended.stderr  # the same command works once there is room
    assert "No space left on device" in ended.stderr and "free space" in ended.stderr
    assert not (disk / "pool" / "manifest.json").exists()


def test_a_journal_on_a_full_disk_acknowledges_nothing_and_goes_on(mount: Mount) -> None:
    disk = mount("-t", "tmpfs", "-o", "size=256k", "tmpfs")
    journal, acknowledged = Journal(Location.parse(disk / "journal")), 0
    with pytest.raises(StoppedError, match="No space left"):
        while True:
            journal.append("event", {"number": acknowledged}, {"rows": np.zeros(2000, dtype=np.int64)})
            acknowledged += 1
    assert acknowledged > 3
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
    again = Journal(Location.parse(disk / "journal"))
    assert [record.fields["number"] for record in again.replay()] == list(range(acknowledged))
    again.append("event", {"number": acknowledged})


def test_a_read_only_folder_is_told_before_work_and_can_be_read(
    mount: Mount, images: Path, tmp_path: Path, coevo_ray: Command, ray_local: None
) -> None:
    assert coevo_ray("ingest", str(images), "--out", str(tmp_path / "data" / "pool")).returncode == 0
    disk = mount("--bind", str(tmp_path / "data"))
    subprocess.run(["mount", "-o", "remount,ro,bind", str(disk)], check=True)
    ended = coevo_ray("ingest", str(images), "--out", str(disk / "other"))
    assert ended.returncode == 2, ended.stderr
    assert "Read-only file system" in ended.stderr and "--out" in ended.stderr and "Traceback" not in ended.stderr
    # What is finished there is found finished, and read.
    assert coevo_ray("ingest", str(images), "--out", str(disk / "pool")).returncode == 0
    assert coevo_ray("plan", "--policy", "random", "--pool", str(disk / "pool"), "--epochs", "2").returncode == 0
    assert coevo_ray("doctor", "--verify", str(disk)).returncode == 0
    changed = coevo_ray("ingest", str(images), "--shard-rows", "7", "--out", str(disk / "pool"))
    assert changed.returncode == 2
