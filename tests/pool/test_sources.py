from __future__ import annotations

import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_ray.config import Source
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pool.sources import Entry, check_source, distinguish, list_source, read_shard
from tests.pool.pictures import png, write_images, write_parquet


def entries(uri: Path | str, shard_rows: int = 3, **settings: Any) -> list[Entry]:
    shards = list_source(Source(uri=str(uri), **settings), shard_rows).shards
    assert all(0 < s.rows <= shard_rows for s in shards)
    read = [list(read_shard(s)) for s in shards]
    assert [len(r) for r in read] == [s.rows for s in shards]
    return [entry for part in read for entry in part]


# -- image folders ---------------------------------------------------------------------------------------------------


def test_a_folder_without_classes_has_no_labels(tmp_path: Path) -> None:
    write_images(tmp_path, {f"{i}.png": png(i) for i in range(5)})
    assert entries(tmp_path) == [Entry(f"{i}.png", png(i), None) for i in range(5)]


def test_top_sub_folders_are_classes_in_alphabetical_order(tmp_path: Path) -> None:
    names = {"dog/a.png": 1, "cat/deep/er/b.png": 0, "cat/a.png": 0, "zebra/z.png": 2, "loose.png": None}
    write_images(tmp_path, {name: png(i) for i, name in enumerate(names)})
    assert {e.key: e.label for e in entries(tmp_path, shard_rows=2)} == names
    assert [e.key for e in entries(tmp_path)] == sorted(names)
    assert {s.classes for s in list_source(Source(uri=str(tmp_path)), 2).shards} == {("cat", "dog", "zebra")}


def test_suffixes_count_in_any_case_and_other_files_do_not(tmp_path: Path) -> None:
    images = ["a.PNG", "b.Jpg", "c.jPEG", "d.tif", "e.WebP", "f.gif", "g.bmp", "h.TIFF", "i.ppm", "j.pgm"]
    write_images(tmp_path, {n: png(0) for n in [*images, "notes.txt", "k.png.part", "README", "l.json"]})
    assert [e.key for e in entries(tmp_path)] == images


def test_a_file_that_vanished_after_listing_is_one_entry_with_an_error(tmp_path: Path) -> None:
    write_images(tmp_path, {f"{i}.png": png(i) for i in range(3)})
    shards = list_source(Source(uri=str(tmp_path)), 3).shards
    (tmp_path / "1.png").unlink()
    first, lost, last = read_shard(shards[0])
    assert (first.error, last.error) == ("", "")
    assert (lost.key, lost.sample) == ("1.png", None)
    assert lost.error.startswith("unreadable file: cannot read")


# -- Parquet ---------------------------------------------------------------------------------------------------------


def test_parquet_with_bytes_labels_and_its_own_keys(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", image=[png(i) for i in range(5)], label=[4, 3, 2, 1, 0], id=[*"vwxyz"])
    expected = [Entry(key, png(i), 4 - i) for i, key in enumerate("vwxyz")]
    assert entries(file, key_column="id") == expected
    assert entries(tmp_path, key_column="id") == expected
    assert [e.key for e in entries(file)] == [f"a.parquet:{i}" for i in range(5)]


def test_columns_may_have_other_names_and_keys_may_be_numbers(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", img=[png(0)], target=[7], number=[42], label=[1])
    settings: dict[str, Any] = {"image_column": "img", "label_column": "target", "key_column": "number"}
    assert entries(file, **settings) == [Entry("42", png(0), 7)]
    assert entries(file, **{**settings, "label_column": None}) == [Entry("42", png(0), None)]


def test_hugging_face_images_are_a_struct_of_bytes_and_path(tmp_path: Path) -> None:
    images = [{"bytes": png(0), "path": "0.png"}, {"bytes": None, "path": "1.png"}, None]
    first, only_path, nothing = entries(write_parquet(tmp_path / "train.parquet", image=images, label=[0, 1, 2]))
    assert first == Entry("train.parquet:0", png(0), 0)
    assert only_path.error == "only a path in column image, and no such file beside the table: '1.png'"
    assert nothing.error == "no image bytes in column image (have nothing)"
    assert (only_path.sample, nothing.sample) == (None, None)


def test_a_column_without_bytes_says_what_it_has(tmp_path: Path) -> None:
    (entry,) = entries(write_parquet(tmp_path / "a.parquet", image=[3], label=[0]))
    assert entry.error == "no image bytes in column image (have int)"


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (pa.array([3, None], pa.int8()), [3, None]),
        (pa.array([2**64 - 1, 9], pa.uint64()), ["outside the range", 9]),
        (pa.array([2.0, float("nan"), None]), [2, None, None]),
        (pa.array([2.5, float("inf"), 1e300]), ["not a whole number", "not a whole number", "outside the range"]),
        (pa.array(["3", "4.0", "", " 5 ", "NaN"]), [3, 4, None, 5, None]),
        (pa.array(["3", "2"]).dictionary_encode(), [3, 2]),
        (pa.array([b"3", b"\xff"]), [3, "1 bytes that are no text"]),
        (pa.array([True, None, False]), [1, None, 0]),
        (pa.array([Decimal("3"), Decimal("2.5")]), [3, "not a whole number: 2.5"]),
        (pa.array([[1], [], [1, 2]]), [1, "not a whole number", "not a whole number"]),
        (pa.array([-1, 1, -2]), [None, 1, -2]),  # -2 is refused by the range of labels
        (pa.nulls(2), [None, None]),
    ],
    ids=[
        "int8",
        "uint64",
        "float",
        "strange-float",
        "string",
        "dictionary",
        "bytes",
        "bool",
        "decimal",
        "list",
        "minus",
        "null",
    ],
)
def test_labels_are_whole_numbers_or_absent(tmp_path: Path, labels: pa.Array, expected: list[Any]) -> None:
    file = write_parquet(tmp_path / "a.parquet", image=[png(i) for i in range(len(labels))], label=labels)
    for entry, wanted in zip(entries(file), expected, strict=True):
        if isinstance(wanted, str):
            assert entry.label is None
            assert wanted in entry.error
        else:
            assert (entry.label, entry.error) == (wanted, "")
            assert entry.label is None or type(entry.label) is int


def test_a_missing_key_is_an_error_of_its_row_alone(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", image=[png(0), png(1), png(2)], id=["x", None, None])
    good, *bad = entries(file, key_column="id")
    assert good == Entry("x", png(0), None)
    assert [(e.key, e.error) for e in bad] == [(f"a.parquet:{i}", "no key in column id") for i in (1, 2)]


def test_parquet_without_a_label_column_is_unlabelled_unless_one_was_named(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", image=[png(0)])
    assert entries(file) == [Entry("a.parquet:0", png(0), None)]
    with pytest.raises(InputError, match=r"a\.parquet has no column 'label'; its columns are \['image'\]") as caught:
        entries(file, label_column="label")
    assert "label_column" in caught.value.remedy


@pytest.mark.parametrize(
    ("setting", "column"), [("image_column", "picture"), ("label_column", "klass"), ("key_column", "id")]
)
def test_a_missing_column_names_those_that_exist(tmp_path: Path, setting: str, column: str) -> None:
    write_parquet(tmp_path / "a.parquet", image=[png(0)], label=[0], key=["x"])
    with pytest.raises(InputError) as caught:
        entries(tmp_path, 3, **{setting: column})
    assert f"a.parquet has no column {column!r}; its columns are ['image', 'label', 'key']" in caught.value.cause
    assert caught.value.remedy.startswith(f"set {setting} of the source to one of them")
    assert ("null" in caught.value.remedy) == (setting != "image_column")


def test_every_file_of_a_folder_must_have_the_columns(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", image=[png(0)], id=["x"])
    write_parquet(tmp_path / "b.parquet", image=[png(0)], key=["x"])
    with pytest.raises(InputError, match=r"b\.parquet has no column 'id'"):
        entries(tmp_path, key_column="id")


def test_broken_parquet_is_named_when_listed_or_read(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", image=[png(i) for i in range(8)])
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"PAR1", b""):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match=f"cannot read {file}"):
            entries(file)
    # The footer is fine, so only reading finds it.
    file.write_bytes(whole[:4] + b"\xff" * 200 + whole[204:])
    with pytest.raises(InputError, match=f"cannot read row group 0 of {file}"):
        entries(file)


def test_only_touched_row_groups_are_read(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", image=[png(i) for i in range(8)])
    data = bytearray(file.read_bytes())
    data[4:204] = b"\xff" * 200  # the first group is unreadable, the shard of the second does not need it
    file.write_bytes(data)
    _, second = list_source(Source(uri=str(file)), 4).shards
    assert [e.sample for e in read_shard(second)] == [png(i) for i in range(4, 8)]


# -- what is chosen, and what is not there ---------------------------------------------------------------------------


def test_format_auto_prefers_images_and_can_be_overruled(tmp_path: Path) -> None:
    write_images(tmp_path, {"x/a.png": png(0)})
    write_parquet(tmp_path / "B.Parquet", image=[png(1)])
    assert [e.key for e in entries(tmp_path)] == ["x/a.png"]
    assert [e.key for e in entries(tmp_path, format="parquet")] == ["B.Parquet:0"]
    (tmp_path / "x" / "a.png").unlink()
    assert [e.key for e in entries(tmp_path)] == ["B.Parquet:0"]


def test_a_source_that_is_not_there_is_named(tmp_path: Path) -> None:
    for look in (lambda s: list_source(s, 1).shards, check_source):
        with pytest.raises(InputError, match=f"source {tmp_path}/none does not exist") as caught:
            look(Source(uri=f"{tmp_path}/none"))
        assert caught.value.exit_code == 3
        assert "check the path" in caught.value.remedy
    check_source(Source(uri=str(tmp_path)))
    with pytest.raises(UsageError, match="unknown sample 'sample:none'"):
        check_source(Source(uri="sample:none"))


def test_the_sample_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    check_source(Source(uri="sample:digits"))
    monkeypatch.setitem(sys.modules, "sklearn", None)  # Python's own way to make an import fail
    with pytest.raises(UsageError, match="needs scikit-learn") as caught:
        check_source(Source(uri="sample:digits"))
    assert caught.value.remedy == "pip install 'coevo-ray[demo]'"


def test_a_sample_is_not_taken_for_samples_of_another_kind() -> None:
    check_source(Source(uri="sample:docstrings", text_column="text"))
    with pytest.raises(UsageError, match="sample:docstrings holds texts, the source says images") as caught:
        check_source(Source(uri="sample:docstrings"))
    assert caught.value.remedy == "set text_column: text"
    with pytest.raises(UsageError, match="sample:digits holds images, the source says texts"):
        check_source(Source(uri="sample:digits", text_column="text"))


def test_a_folder_without_images_says_what_was_looked_for(tmp_path: Path) -> None:
    write_images(tmp_path, {"readme.bin": b"x", "deep/data.xyz": b"x"})
    with pytest.raises(InputError, match=r"no images in .*: 2 files, none ends in \.png, \.jpg") as caught:
        entries(tmp_path)
    assert "give a folder of images" in caught.value.remedy
    write_images(tmp_path, {"notes.txt": b"x", "deep/data.csv": b"x"})
    with pytest.raises(
        InputError, match=r"no images in .*: 4 files, none ends in .* 1 x \.csv, .* 1 x \.txt"
    ) as caught:
        entries(tmp_path)
    assert "of texts of .csv with text_column" in caught.value.remedy
    assert "of texts of .txt with format: texts" in caught.value.remedy
    with pytest.raises(InputError, match="no Parquet files in"):
        entries(tmp_path, format="parquet")
    with pytest.raises(InputError, match="is one image") as caught:
        entries(write_images(tmp_path, {"a.png": png(0)}) / "a.png")
    assert "folder" in caught.value.remedy


def test_parquet_without_rows_has_no_shards(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), file)
    assert list_source(Source(uri=str(file)), 4).shards == []


# -- several sources -------------------------------------------------------------------------------------------------


def keys(*uris: Path) -> list[str]:
    shards = distinguish([list_source(Source(uri=str(uri)), 2).shards for uri in uris])
    return [entry.key for shard in shards for entry in read_shard(shard)]


def test_equal_file_names_in_several_sources_get_the_shortest_telling_prefix(tmp_path: Path) -> None:
    train, test = (write_images(tmp_path / s / "images", {"cat/1.png": png(0), "dog/1.png": png(1)}) for s in "ab")
    assert keys(train) == ["cat/1.png", "dog/1.png"]
    assert keys(train, test) == [f"{s}/images/{c}/1.png" for s in "ab" for c in ("cat", "dog")]
    assert keys(train / "cat", train / "dog") == ["cat/1.png", "dog/1.png"]
    again = keys(train, train)
    assert again[:2] == again[2:]  # the same samples: ingest rejects the second ones


def test_parquet_files_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    files = [write_parquet(tmp_path / s / "data.parquet", image=[png(0), png(1)]) for s in ("x", "y")]
    assert keys(*files) == [f"{s}/data.parquet:{i}" for s in ("x", "y") for i in (0, 1)]
    other = write_parquet(tmp_path / "z" / "more.parquet", image=[png(2)])
    assert keys(files[0], other) == ["data.parquet:0", "data.parquet:1", "more.parquet:0"]


# -- shards ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sources")
    write_images(folder / "images", {f"{i % 3}/{i:02d}.png": png(i) for i in range(23)})
    for name, rows, group in (("a", 11, 4), ("b", 1, 4), ("c", 13, 5)):
        images = [png(100 + i) for i in range(rows)]
        write_parquet(folder / "parquet" / f"{name}.parquet", group, image=images, label=list(range(rows)))
    return {"images": folder / "images", "parquet": folder / "parquet"}


@pytest.mark.parametrize("kind", ["images", "parquet"])
@settings(max_examples=30, deadline=None)
@given(shard_rows=st.integers(1, 40))
def test_shards_joined_are_the_source(sources: dict[str, Path], kind: str, shard_rows: int) -> None:
    if kind == "images":
        names = sorted(f"{i % 3}/{i:02d}.png" for i in range(23))
        expected = [Entry(n, png(int(n[2:4])), int(n[0])) for n in names]
    else:
        files = (("a", 11), ("b", 1), ("c", 13))
        expected = [Entry(f"{n}.parquet:{i}", png(100 + i), i) for n, rows in files for i in range(rows)]
    assert entries(sources[kind], shard_rows) == expected
