from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coevo_ray.errors import InputError
from coevo_ray.pool.entries import pack_names, unpack_names
from coevo_ray.pool.listing import walk
from coevo_ray.store.location import Location

# Characters around the slash in code-point order, where sorting folder by folder could go wrong.
PARTS = st.text("a-.0/ \N{SNOWMAN}", min_size=1, max_size=3).filter(lambda s: s.strip("./ ") and "//" not in s)


@given(st.sets(PARTS, max_size=12))
def test_the_order_is_that_of_whole_paths(names: set[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        written = set()
        for name in names:
            file = Path(folder) / name.strip("/")
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(b"")
            except OSError:  # a folder and a file of one name
                continue
            written.add(os.path.relpath(file, folder))
        assert list(walk(Location(folder))) == sorted(written)
        assert list(walk(Location(folder))) == Location(folder).files(recursive=True)
        remote = Location(folder)
        assert list(walk(_Remote(remote.uri))) == sorted(written)


class _Remote(Location):
    """The same folder through pyarrow, as a store is listed."""

    @property
    def is_local(self) -> bool:
        return False

    @property
    def file_system(self):  # type: ignore[no-untyped-def]
        return Location(self.uri).file_system

    @property
    def path(self) -> str:
        return self.uri

    def child(self, *parts: str) -> Location:
        return _Remote("/".join([self.uri, *parts]))


def test_links_are_followed_and_unfinished_files_left_out(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.png").write_bytes(b"")
    (tmp_path / "real" / "b.png.tmp-123").write_bytes(b"")
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "c.png").symlink_to(tmp_path / "real" / "a.png")
    (tmp_path / "broken.png").symlink_to(tmp_path / "nothing")
    assert list(walk(Location(str(tmp_path)))) == ["c.png", "linked/a.png", "real/a.png"]


def test_a_circle_of_links_and_a_name_that_is_no_text_are_bad_input(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "up").symlink_to(tmp_path / "b")
    with pytest.raises(InputError, match="cannot list"):
        list(walk(Location(str(tmp_path / "b"))))
    (tmp_path / "a").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "a") + b"/\xff.png")).write_bytes(b"")
    with pytest.raises(InputError, match="not UTF-8"):
        list(walk(Location(str(tmp_path / "a"))))
    with pytest.raises(InputError, match="cannot list"):
        list(walk(Location(str(tmp_path / "none"))))


@given(st.lists(st.text(min_size=1).filter(lambda s: "\0" not in s), min_size=1))
def test_packed_names_come_back(names: list[str]) -> None:
    assert unpack_names(pack_names(names)) == names
