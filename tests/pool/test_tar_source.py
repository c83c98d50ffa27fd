from __future__ import annotations

import gzip
import io
import json
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_ray.config import Source
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pool import tar_members
from coevo_ray.pool.sources import Entry, SourceShard, cut, list_source, read_keys, read_shard
from tests.pool.pictures import png, write_tar


def shards_of(uri: Path, shard_rows: int = 3, **options: Any) -> list[SourceShard]:
    listed = list_source(Source(uri=str(uri), **options), shard_rows).shards
    return [part for shard in listed for part in cut(shard, shard_rows)]


def entries(uri: Path, shard_rows: int = 3, **options: Any) -> list[Entry]:
    shards = shards_of(uri, shard_rows, **options)
    read = [list(read_shard(shard)) for shard in shards]
    assert [[e.key for e in part] for part in read] == [list(read_keys(shard)) for shard in shards]
    for shard, part in zip(shards, read, strict=True):
        assert shard.rows in (-1, len(part))
    return [entry for part in read for entry in part]


def write_samples(file: Path, count: int, start: int = 0) -> list[Entry]:
    """Written by the webdataset package itself."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(file)) as writer:
        for i in range(start, start + count):
            writer.write({"__key__": f"part/{i:04d}", "png": png(i), "cls": i % 4, "json": {"id": i}, "txt": f"no {i}"})
    return [Entry(f"part/{i:04d}", png(i), i % 4) for i in range(start, start + count)]


# -- what the webdataset package writes ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_images_labels_and_keys(tmp_path: Path, name: str) -> None:
    expected = write_samples(tmp_path / name, 7)
    assert entries(tmp_path) == expected
    assert entries(tmp_path / name) == expected
    read_back = [s["__key__"] for s in webdataset.WebDataset(str(tmp_path / name), shardshuffle=False)]
    assert [e.key for e in expected] == read_back


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_texts_and_json_fields(tmp_path: Path, name: str) -> None:
    write_samples(tmp_path / name, 4)
    read = entries(tmp_path, text_column="txt", label_column="id", key_column="id")
    assert read == [Entry(str(i), f"no {i}", i) for i in range(4)]
    assert [e.label for e in entries(tmp_path, label_column=None)] == [None] * 4


@settings(max_examples=25, deadline=None)
@given(shard_rows=st.integers(1, 25))
def test_shards_joined_are_the_source(sample_tars: tuple[Path, list[Entry]], shard_rows: int) -> None:
    folder, expected = sample_tars
    assert entries(folder, shard_rows) == expected
    assert all(s.rows <= shard_rows for s in shards_of(folder, shard_rows))


@pytest.fixture(scope="module")
def sample_tars(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Entry]]:
    folder = tmp_path_factory.mktemp("tars")
    parts = [write_samples(folder / name, 9, 20 * i) for i, name in enumerate(("a.tar", "b.tar.gz", "c.tar"))]
    return folder, [entry for part in parts for entry in part]


def test_a_shard_starts_where_it_begins_and_not_at_the_front(tmp_path: Path) -> None:
    expected = write_samples(tmp_path / "a.tar", 9)
    last = shards_of(tmp_path, 4)[-1]
    data = bytearray((tmp_path / "a.tar").read_bytes())
    data[: last.offset] = b"\xff" * last.offset
    (tmp_path / "a.tar").write_bytes(data)
    assert list(read_shard(last)) == expected[8:]


# -- by hand: the rules of the format --------------------------------------------------------------------------------


def test_the_key_goes_up_to_the_first_dot_of_the_file_name(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "a.tar",
        [
            ("v1.2/x/a.PNG", png(0)),  # a dot in a folder is no extension
            ("v1.2/x/a.seg.png", png(1)),
            ("v1.2/x/a.cls", b" 3\n"),
            ("./b.jpeg", png(2)),
            ("__meta__", b"skipped"),
            ("__more__/x.png", png(9)),
            ("noextension", b"skipped"),
            (".hidden", b"skipped"),
            ("c.json", json.dumps({"label": 5}).encode()),
            ("c.webp", png(3)),
        ],
    )
    assert entries(tmp_path) == [
        Entry("v1.2/x/a", png(0), 3),
        Entry("./b", png(2), None),
        Entry("c", png(3), 5),
    ]
    assert next(e.sample for e in entries(tmp_path, image_column="seg.png")) == png(1)


def test_long_names_and_folders_do_not_move_offsets(tmp_path: Path) -> None:
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        names = [f"{'long/' * 40}{i}.png" for i in range(6)]
        write_tar(tmp_path / "a.tar", [("long/", None), *((name, png(i)) for i, name in enumerate(names))], kind)
        assert entries(tmp_path, 2) == [Entry(name[:-4], png(i), None) for i, name in enumerate(names)]


def test_what_is_wrong_with_a_sample_is_its_own_reject(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "a.tar",
        [
            ("a.cls", b"1"),
            ("b.png", png(0)),
            ("b.cls", b"cat"),
            ("c.png", png(1)),
            ("c.png", png(2)),
            ("d.json", b"{"),
            ("d.png", png(3)),
            ("e.txt", b"  \n"),
            ("e.png", png(4)),
            ("f.txt", b"\xff\xfe"),
            ("f.png", png(5)),
        ],
    )
    assert [e.text for e in entries(tmp_path)][1] == "cat"
    errors = {e.key: e.error for e in entries(tmp_path)}
    assert errors == {
        "a": "no image among its files: cls",
        "b": "",  # a class's name
        "c": "two files of one extension: png",
        "d": "",  # nothing was asked of its .json
        "e": "",
        "f": "",
    }
    assert [e.error for e in entries(tmp_path, label_column="y")][3] == "its .json is damaged"
    keys = {e.key: e.error for e in entries(tmp_path, key_column="id")}
    assert keys["a.tar:0"] == "no key in field id of its .json"
    assert keys["a.tar:3"] == "its .json is damaged"
    texts = {e.key: e.error for e in entries(tmp_path, text_column="txt")}
    assert texts["e"] == "empty text in .txt"
    assert texts["f"] == "text that is not UTF-8 in .txt"
    assert texts["d"] == "no file .txt among its files: json, png"


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_an_empty_tar_has_no_samples(tmp_path: Path, name: str) -> None:
    write_tar(tmp_path / name, [])
    assert entries(tmp_path) == []


# -- damage ----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(keep=st.integers(0, 10 * 1024 - 1))
def test_a_tar_that_was_cut_off_anywhere_is_bad_input(whole_tar: bytes, keep: int) -> None:
    assert len(whole_tar) == 10 * 1024
    check_damaged(whole_tar[:keep])


def test_a_tar_cut_off_between_samples_or_in_a_header_is_bad_input(whole_tar: bytes) -> None:
    for keep in (0, 512, 1024, 2048, 3072, 3000, 4096):
        check_damaged(whole_tar[:keep])


def check_damaged(data: bytes) -> None:
    end = end_of_samples()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cut.tar"
        file.write_bytes(data)
        if len(data) >= end + 512:  # the end marker has begun: nothing is missing
            assert len(entries(file, 2)) == 3
            return
        with pytest.raises(InputError, match=r"cut\.tar is damaged or cut off: ") as caught:
            entries(file, 2)
        assert caught.value.exit_code == 3


def end_of_samples() -> int:
    return 3 * (512 + 512)


@pytest.fixture(scope="module")
def whole_tar(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("whole") / "a.tar"
    write_tar(file, [(f"{i}.png", png(i)) for i in range(3)])
    data = file.read_bytes()
    assert all(len(png(i)) <= 512 for i in range(3))
    return data


def test_a_damaged_header_and_a_damaged_gzip_are_bad_input(tmp_path: Path, whole_tar: bytes) -> None:
    damaged = bytearray(whole_tar)
    damaged[1024 + 5] ^= 0xFF  # in the name of the second file: its header's checksum is wrong
    (tmp_path / "a.tar").write_bytes(damaged)
    with pytest.raises(InputError, match=r"a\.tar is damaged or cut off: bad checksum"):
        entries(tmp_path / "a.tar")
    packed = gzip.compress(whole_tar)
    for data in (packed[: len(packed) // 2], packed[:100] + b"\0" * 50 + packed[150:], b"no gzip", b""):
        (tmp_path / "b.tar.gz").write_bytes(data)
        with pytest.raises(InputError, match=r"b\.tar\.gz is damaged or cut off"):
            entries(tmp_path / "b.tar.gz")


def test_a_tar_that_lost_samples_after_it_was_looked_through_is_named(tmp_path: Path) -> None:
    write_samples(tmp_path / "a.tar", 5)
    (shard,) = shards_of(tmp_path, 10)
    write_samples(tmp_path / "a.tar", 4)
    with pytest.raises(InputError, match=r"a\.tar of .* changed while it was read: 4 of 5 samples"):
        list(read_shard(shard))


def test_settings_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    write_samples(tmp_path / "a.tar", 1)
    with pytest.raises(UsageError, match="tars hold none"):
        entries(tmp_path, feature_columns=["clip"])
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match="no tars in"):
        entries(tmp_path / "other", format="webdataset")


def test_the_order_is_that_of_the_tar_and_a_key_may_come_again(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("b.png", png(0)), ("a.png", png(1)), ("b.cls", b"1"), ("b.png", png(2))])
    assert entries(tmp_path, 1) == [Entry("b", png(0), None), Entry("a", png(1), None), Entry("b", png(2), 1)]
    plain = io.BytesIO((tmp_path / "a.tar").read_bytes())
    with tarfile.open(fileobj=plain) as archive:
        assert archive.getnames() == ["b.png", "a.png", "b.cls", "b.png"]


def test_files_of_a_sample_may_lie_apart(tmp_path: Path) -> None:
    """Writers that sort by extension put all images before all labels."""
    images = [(f"{i}.png", png(i)) for i in range(7)]
    write_tar(
        tmp_path / "a.tar", [*images, ("0.txt", b"x"), *((f"{i}.cls", str(i).encode()) for i in range(6, -1, -1))]
    )
    for shard_rows in (1, 3, 100):
        assert entries(tmp_path, shard_rows) == [Entry(str(i), png(i), i) for i in range(7)]


def test_files_that_lie_apart_in_a_compressed_tar_are_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar.gz", [("a.png", png(0)), ("b.png", png(1)), ("a.cls", b"1"), ("b.cls", b"0")])
    with pytest.raises(InputError, match=r"files of sample 'a' are not adjacent in .*a\.tar\.gz") as caught:
        entries(tmp_path)
    assert "tar --sort=name" in caught.value.remedy


@settings(max_examples=60, deadline=None)
@given(st.permutations([(f"{i}.{end}", i) for i in range(4) for end in ("png", "cls", "txt")]), st.integers(1, 5))
def test_samples_do_not_depend_on_the_order_of_a_tar(members: list[tuple[str, int]], shard_rows: int) -> None:
    def content(name: str, i: int) -> bytes:
        return {"png": png(i), "cls": str(i).encode(), "txt": b"x"}[name[2:]]

    with tempfile.TemporaryDirectory() as folder:
        write_tar(Path(folder) / "a.tar", [(name, content(name, i)) for name, i in members])
        read = entries(Path(folder), shard_rows)
    assert sorted(read, key=lambda e: e.key) == [Entry(str(i), png(i), i) for i in range(4)]
    # In the order of their first files.
    assert [e.key for e in read] == list(dict.fromkeys(name[0] for name, _ in members))


# -- bombs -----------------------------------------------------------------------------------------------------------


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.timeout(20)
def test_a_compressed_tar_that_states_a_huge_file_ends_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(header("x.bin", 1 << 60)))
    with pytest.raises(InputError, match="a file of 1152921504606846976 bytes in a compressed tar"):
        entries(tmp_path)


@pytest.mark.timeout(60)
def test_a_compressed_tar_of_nothing_but_zeros_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_members, "_FREE_BYTES", 100 << 20)
    with gzip.open(tmp_path / "a.tar.gz", "wb") as stream:
        stream.write(header("x.bin", 2 << 30))
        for _ in range(150):
            stream.write(bytes(1 << 20))
    with pytest.raises(InputError, match="decompresses to more than 100 times its size"):
        entries(tmp_path)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_huge_headers_are_refused(tmp_path: Path, kind: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(header("x", 1 << 40, kind) + bytes(1024))
    with pytest.raises(InputError, match="a header of 1099511627776 bytes, need 1048576 or fewer"):
        entries(tmp_path)


def sparse_header(name: str, real_size: int) -> bytes:
    """A member of GNU's old sparse format that is a hole (GNU tar manual, "Storing Sparse Files")."""
    block = bytearray(header(name, 0, tarfile.GNUTYPE_SPARSE))
    block[386:398] = b"%011o " % real_size
    block[398:410] = b"%011o " % 0
    block[483:495] = b"%011o " % real_size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def test_sparse_files_are_rejects_and_take_no_memory(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(sparse_header("x.png", 4 << 30) + bytes(1024))
    (entry,) = entries(tmp_path)
    assert (entry.key, entry.error) == ("x", "sparse file: .png")


def test_huge_files_of_samples_are_rejects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_members, "_LARGEST", 100)
    write_tar(tmp_path / "a.tar", [("a.png", png(0)), ("b.png", png(1)), ("b.cls", b"1"), ("c.txt", bytes(1000))])
    assert [e.error for e in entries(tmp_path)][:2] == [
        f"file of {len(png(i))} bytes, need 100 or fewer: .png" for i in (0, 1)
    ]
