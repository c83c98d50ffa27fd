from __future__ import annotations

import os
from pathlib import Path

import pytest

from coevo_ray.errors import InputError, StoppedError, UsageError
from coevo_ray.store.location import Location
from tests.command_line import Command


def test_children_of_paths_and_uris() -> None:
    assert Location.parse("/a/b").child("c", "d").uri == "/a/b/c/d"
    s3 = Location("s3://bucket/pool?region=eu-west-1")
    assert s3.child("x").uri == "s3://bucket/pool/x?region=eu-west-1"
    assert s3.child("x").path == "bucket/pool/x"


def test_file_uri_is_a_local_path(tmp_path: Path) -> None:
    assert Location.parse(f"file://{tmp_path}") == Location(str(tmp_path))


def test_relative_paths_start_at_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Location.parse("runs").uri == str(tmp_path / "runs")


def test_written_bytes_come_back_and_no_temporary_file_stays(tmp_path: Path) -> None:
    place = Location.parse(str(tmp_path)).child("a", "b.bin")
    place.write_bytes(b"one")
    place.write_bytes(b"two")
    assert place.read_bytes() == b"two"
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b.bin"]


@pytest.mark.parametrize("ending", ["gz", "bz2", "zst", "lz4"])
def test_bytes_are_read_as_they_are_whatever_the_name_says(ending: str, tmp_path: Path) -> None:
    (tmp_path / f"a.csv.{ending}").write_bytes(b"row_id,label")
    assert Location.parse(tmp_path / f"a.csv.{ending}").read_bytes() == b"row_id,label"


@pytest.mark.parametrize("recursive", [False, True])
def test_files_are_listed_alike_through_links_and_below(recursive: bool, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("b", "a", "folder/c"):
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "broken").symlink_to(tmp_path / "nothing")
    (tmp_path / "to_folder").symlink_to(tmp_path / "folder")
    below = ["folder/c", "link", "to_folder/c"] if recursive else ["link"]
    assert Location.parse(tmp_path).files(recursive) == ["a", "b", *below]


@pytest.mark.parametrize("recursive", [False, True])
def test_names_that_are_not_utf_8_are_told(recursive: bool, tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff.csv")).touch()
    with pytest.raises(InputError, match="has a file whose name is not UTF-8"):
        Location.parse(tmp_path).files(recursive)


def test_unfinished_files_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / "x.parquet.tmp-123").write_bytes(b"")
    (tmp_path / "y.parquet").write_bytes(b"")
    assert Location.parse(str(tmp_path)).files() == ["y.parquet"]


@pytest.mark.parametrize("text", ["", "   "])
def test_empty_path_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="empty"):
        Location.parse(text)


def test_unknown_scheme_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot open the store"):
        Location.parse("nowhere://x/y")


def test_a_store_that_cannot_be_written_is_found_before_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write"):
        Location.parse(str(tmp_path / "file" / "below")).check_writable()


def test_a_refusing_store_stops_resumably(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoppedError) as caught:
        Location.parse(str(tmp_path / "file" / "below")).write_bytes(b"x")
    assert caught.value.exit_code == 4


def test_a_full_disk_stops_resumably_and_keeps_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"earlier")
    with pytest.raises(StoppedError, match="cannot write"), _on_full_disk():
        Location.parse(str(tmp_path / "kept")).write_bytes(b"x" * 4096)
    assert (tmp_path / "kept").read_bytes() == b"earlier"


class _on_full_disk:  # noqa: N801 - reads as a condition
    """A file size limit makes the kernel refuse the write, as a full disk does."""

    def __enter__(self) -> None:
        import resource
        import signal

        self.handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        self.limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, self.limit[1]))

    def __exit__(self, *_: object) -> None:
        import resource
        import signal

        resource.setrlimit(resource.RLIMIT_FSIZE, self.limit)
        signal.signal(signal.SIGXFSZ, self.handler)


def test_missing_file_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no-such"):
        Location.parse(str(tmp_path / "no-such")).read_bytes()
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        Location.parse(str(tmp_path / "bad.json")).read_json()


def test_file_uris_are_read_as_browsers_write_them(tmp_path: Path) -> None:
    odd = tmp_path / "my images #1 50%"
    assert Location.parse(odd.as_uri()) == Location(str(odd)) == Location.parse(odd)
    assert Location.parse(f"file://localhost{tmp_path}/a%20b") == Location(str(tmp_path / "a b"))
    with pytest.raises(UsageError, match="on the machine 'images'"):
        Location.parse("file://images/cats")


def test_a_place_has_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "elsewhere" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a")
    monkeypatch.setenv("HOME", str(tmp_path))
    wanted = Location(str(tmp_path / "a" / "b"))
    for text in ("b", "./b", "b/", "../a/b", "b/../b", "~/a/b", f"{tmp_path}/a/./b", f"file://{tmp_path}/a/../a/b"):
        assert Location.parse(text) == wanted, text
    # Behind a symbolic link `..` is the folder above its target, so it stays.
    (tmp_path / "a" / "link").symlink_to(tmp_path / "elsewhere" / "below")
    found = Location.parse("link/../x")
    assert found.uri != str(tmp_path / "a" / "x")
    found.write_bytes(b"1")
    assert (tmp_path / "elsewhere" / "x").read_bytes() == b"1"


@pytest.mark.timeout(60)
def test_a_store_that_cannot_be_reached_stops_the_command(
    tmp_path: Path, coevo_ray: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    ended = coevo_ray(
        "ingest",
        "s3://bucket/data?endpoint_override=127.0.0.1:1&scheme=http&region=us-east-1",
        "--out",
        str(tmp_path / "pool"),
    )
    assert ended.returncode == 4
    assert "cannot reach s3://bucket?endpoint_override=127.0.0.1:1" in ended.stderr
    assert "check the address, the network and the credentials" in ended.stderr


def test_a_name_that_is_too_long_is_refused_as_such(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="too long") as refused:
        Location.parse(tmp_path).child("a" * 300).size()
    assert refused.value.remedy == "shorten the path"
