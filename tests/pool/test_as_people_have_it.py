"""Sources as people have them, by what listing and reading make of them; no Ray."""

from __future__ import annotations

import json
import os
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coevo_ray.config import Source
from coevo_ray.errors import CoevoError, InputError, UsageError
from coevo_ray.pool.entries import ListedSource
from coevo_ray.pool.parquet_files import opened, parts_of
from coevo_ray.pool.rejects import Reject, remedy_for
from coevo_ray.pool.sources import cut, list_source, read_shard
from coevo_ray.store.location import Location
from tests.pool.pictures import png, write_images, write_tar

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 12345\n"


def listed(path: Path, **settings: object) -> ListedSource:
    return list_source(Source.model_validate({"uri": str(path), **settings}), 4096)


def entries(path: Path, **settings: object) -> dict[str, tuple[str | int | None, str]]:
    """Key -> label as the source writes it, and why the sample cannot be used."""
    shards = [part for shard in listed(path, **settings).shards for part in cut(shard, 4096)]
    read = [entry for shard in shards for entry in read_shard(shard)]
    assert len({entry.key for entry in read}) == len(read)
    return {entry.key: (entry.text or entry.label, entry.error) for entry in read}


def refusal(path: Path, **settings: object) -> CoevoError:
    with pytest.raises((InputError, UsageError)) as caught:
        entries(path, **settings)
    return caught.value


# -- what is there and cannot be read ----------------------------------------------------------------------------------


def test_links_to_nothing_pipes_and_devices_are_told(tmp_path: Path) -> None:
    """A clone of git-annex or DVC without its content; fiftyone and dvc users meet it daily."""
    write_images(tmp_path / "data", {"cat/0.png": png(0), "dog/0.png": png(1)})
    for i in range(3):
        (tmp_path / "data" / "cat" / f"x{i}.png").symlink_to("/nowhere/annex")
    (tmp_path / "data" / "cat" / ".#lock").symlink_to("user@host.123")  # of Emacs
    (tmp_path / "data" / "dog" / "real.png").symlink_to(tmp_path / "data" / "dog" / "0.png")
    os.mkfifo(tmp_path / "data" / "pipe.png")
    found = listed(tmp_path / "data")
    assert found.files == 3
    assert found.left_out == {"links to nothing": 3, "pipes and devices": 1, "hidden": 1}
    told = "\n".join(found.said)
    assert "passed over 3 links to nothing (first: cat/x0.png): fetch the files that they name (git annex get" in told
    assert "passed over 1 pipes and devices (first: pipe.png)" in told


def test_a_source_of_links_to_nothing_says_so(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "0.png").symlink_to("/nowhere")
    error = refusal(tmp_path / "data")
    assert "it has 1 x links to nothing" in error.cause and "git annex get" in error.remedy


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("a.parquet", {}),
        ("a.csv", {"text_column": "text"}),
        ("a.jsonl", {"text_column": "text"}),
        ("a.npy", {"format": "npy"}),
        ("a.tar", {}),
        ("a.tar.gz", {}),
    ],
)
def test_pointers_of_git_lfs_are_called_so(tmp_path: Path, name: str, settings: dict[str, str]) -> None:
    (tmp_path / name).write_bytes(POINTER)
    for place in (tmp_path, tmp_path / name):
        error = refusal(place, **settings)
        assert f"{name} is a Git LFS pointer, not the file" in error.cause
        assert error.remedy == "fetch the files themselves: git lfs pull"


def test_images_that_are_pointers_are_rejects_with_their_remedy(tmp_path: Path) -> None:
    from coevo_ray.pool.images import ImageError, verify_image

    with pytest.raises(ImageError, match=r"Git LFS pointer \(\d+ bytes\)") as caught:
        verify_image(POINTER)
    assert "git lfs pull" in remedy_for([Reject("0.png", "ingest", caught.value.reason)])


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("cat/0.png", png(0))


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("data.zip", "unpack .zip, and give the folder"),
        ("data.tar.bz2", "unpack .bz2, and give the folder"),
        ("texts.csv.gz", "unpack .gz (gunzip"),
        ("texts.json", "write .json as JSON Lines, an object a line: jq"),
        ("data-00000-of-00001.arrow", "write .arrow as Parquet: datasets.load_from_disk"),
        ("arrays.npz", "write arrays of .npz as .npy: numpy.save"),
        ("labels.xlsx", "save .xlsx as CSV"),
    ],
)
@pytest.mark.parametrize("settings", [{}, {"text_column": "text"}])
def test_files_that_no_format_reads_come_with_a_remedy(
    tmp_path: Path, name: str, remedy: str, settings: dict[str, str]
) -> None:
    _zip(tmp_path / name)
    for place in (tmp_path, tmp_path / name):
        error = refusal(place, **settings)
        assert remedy in error.remedy
        assert f"it has 1 x .{name.rpartition('.')[2]}" in error.cause


def test_an_artifact_is_no_source(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [png(0)], "label": [0]}), tmp_path / "rows-000000.parquet")
    assert len(entries(tmp_path)) == 1
    (tmp_path / "manifest.json").write_text(json.dumps({"kind": "pool", "config": {}, "inputs": {}, "rows": 1}))
    error = refusal(tmp_path)
    assert "is a folder of coevo-ray (pool), and no source" in error.cause and "the sources that it" in error.remedy
    write_images(tmp_path, {"0.png": png(1)})  # a pool that was made in the folder of its images
    assert list(entries(tmp_path)) == ["0.png"]


# -- metadata of images ------------------------------------------------------------------------------------------------


def with_metadata(folder: Path, name: str, content: str | bytes, *images: str) -> dict[str, str | int | None]:
    write_images(folder, {image: png(i) for i, image in enumerate(images or ("0.png", "1.png"))})
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return {key: label for key, (label, error) in entries(folder).items() if not error}


@pytest.mark.parametrize(
    "content",
    [
        "\ufefffile_name;label\r\n0.png;cat\r\n1.png;dog\r\n",
        "\ufeffsep=;\r\nfile_name;label\r\n0.png;cat\r\n1.png;dog\r\n",
        "file_name\tlabel\n0.png\tcat\n1.png\tdog\n",
        'file_name,caption,label\n0.png,"two\nlines, and a comma",cat\n1.png,x,dog\n',
    ],
)
def test_metadata_as_spreadsheets_write_it(tmp_path: Path, content: str) -> None:
    assert with_metadata(tmp_path, "metadata.csv", content) == {"0.png": "cat", "1.png": "dog"}


def test_metadata_in_parquet(tmp_path: Path) -> None:
    table = pa.table({"file_name": ["0.png", "1.png"], "size": [1, 2], "label": ["cat", "dog"]})
    pq.write_table(table, tmp_path / "metadata.parquet")
    metadata = (tmp_path / "metadata.parquet").read_bytes()
    assert with_metadata(tmp_path / "a", "metadata.parquet", metadata) == {"0.png": "cat", "1.png": "dog"}
    assert not listed(tmp_path / "a").left_out
    pq.write_table(pa.table({"file_name": ["0.png"], "class": ["cat"]}), tmp_path / "a" / "metadata.parquet")
    assert any("(it has ['class', 'file_name']" in said for said in listed(tmp_path / "a").said)


def test_names_in_metadata_may_be_spelled_otherwise(tmp_path: Path) -> None:
    images = [
        unicodedata.normalize("NFD", "é.png"),
        "IMG_3.PNG",
        "sub/4.png",
        "a.png",
        "A.png",
        "exact.png",
        "Exact.png",
    ]
    rows = ["é.png,1", "img_3.png,2", "sub\\4.png,3", "a.PNG,4", "exact.png,5", "EXACT.png,6"]
    found = with_metadata(tmp_path, "metadata.csv", "\n".join(["file_name,label", *rows]), *images)
    # a.PNG may be either of two images; what is named exactly is meant exactly.
    expected = {
        images[0]: 1,
        "IMG_3.PNG": 2,
        "sub/4.png": 3,
        "exact.png": 5,
        "Exact.png": 6,
        "a.png": None,
        "A.png": None,
    }
    assert {key: None if label is None else int(label) for key, label in found.items()} == expected
    assert any(
        "1 rows of metadata.csv name images that are not there (first: a.PNG)" in s for s in listed(tmp_path).said
    )


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_two_labels_of_one_image_are_refused(tmp_path: Path, name: str) -> None:
    rows = [{"file_name": "0.png", "label": label} for label in ("cat", "cat", "dog")]
    lines = map(json.dumps, rows) if name.endswith("l") else ["file_name,label", *(f"0.png,{r['label']}" for r in rows)]
    with pytest.raises(InputError, match=r"0\.png has several labels: 'cat' and 'dog'") as caught:
        with_metadata(tmp_path, name, "\n".join(lines))
    assert "keep one row for each image" in caught.value.remedy
    assert set(entries(tmp_path, label_column=None).values()) == {(None, "")}


# -- tables and lines --------------------------------------------------------------------------------------------------


def test_parquet_by_its_other_endings(tmp_path: Path) -> None:
    for i, name in enumerate(("a.pq", "b.PARQ", "c.snappy.parquet")):
        pq.write_table(pa.table({"image": [png(i)], "label": [i]}), tmp_path / name)
    assert entries(tmp_path) == {"a.pq:0": (0, ""), "b.PARQ:0": (1, ""), "c.snappy.parquet:0": (2, "")}


@pytest.mark.parametrize("column", ["image", "label", "id"])
def test_a_column_that_is_there_twice_is_refused(tmp_path: Path, column: str) -> None:
    columns = {"image": pa.array([png(0)]), "label": pa.array([0]), "id": pa.array(["k"])}
    table = pa.Table.from_arrays([*columns.values(), columns[column]], names=[*columns, column])
    pq.write_table(table, tmp_path / "a.parquet")
    error = refusal(tmp_path, key_column="id")
    assert error.cause.endswith(f"a.parquet has 2 columns '{column}'") and error.exit_code == 3


@pytest.mark.parametrize(
    ("name", "content", "cause", "remedy"),
    [
        ("a.csv", b"text,label\rhello,cat\rbye,dog\r", "is no header", "tr '\\r' '\\n'"),
        ("a.csv", "text,label\nhello,cat\n".encode("utf-16"), "not UTF-8", "iconv -f UTF-16"),
        ("a.jsonl", json.dumps([{"text": "a"}, {"text": "b"}], indent=1).encode(), "is a JSON object", "jq -c '.[]'"),
        ("a.jsonl", b'[{"text": "a"}]', "is a JSON object: no JSON object but list", "jq -c '.[]'"),
        ("a.jsonl", json.dumps({"text": "a"}, indent=1).encode(), "is a JSON object: no JSON", "jq -c ."),
        ("a.jsonl", '{"text": "a"}'.encode("utf-16"), "is a JSON object: no JSON", "in UTF-8"),
        ("a.jsonl", b"", "is a JSON object: it is empty", "one object a line"),
    ],
)
def test_lines_that_are_no_table_come_with_a_remedy(
    tmp_path: Path, name: str, content: bytes, cause: str, remedy: str
) -> None:
    (tmp_path / name).write_bytes(content)
    error = refusal(tmp_path, text_column="text")
    assert cause in error.cause and remedy in error.remedy


def test_columns_without_a_name_are_no_columns(tmp_path: Path) -> None:
    """The index of pandas, and delimiters that a spreadsheet leaves at the end of every line."""
    (tmp_path / "a.csv").write_text(",text,label,,\n0,hello,cat,,\n1,bye,dog,,\n")
    assert entries(tmp_path, text_column="text") == {"a.csv:0": ("cat", ""), "a.csv:1": ("dog", "")}


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        ("text that is not UTF-8 in column text", "iconv"),
        ("3 fields, the header names 2", "quote texts"),
        ("no JSON: Expecting value", "jq"),
        ("no JSON object but list", "jq"),
    ],
)
def test_rejects_of_lines_have_a_remedy_of_their_own(reason: str, remedy: str) -> None:
    assert remedy in remedy_for([Reject("a.csv:0", "ingest", reason)])


# -- tars --------------------------------------------------------------------------------------------------------------


def test_what_a_mac_puts_into_tars_is_no_sample(tmp_path: Path) -> None:
    members = [(f"./{folder}{i}.{end}", data) for folder in ("", "a/") for i in range(2) for end, data in SAMPLE]
    twins = [(f"./a/._{i}.png", b"\0\5\x16\7") for i in range(2)] + [("__MACOSX/a/0.png", b"\0\5\x16\7")]
    write_tar(tmp_path / "a.tar", [*twins, *members, ("./a/.DS_Store.png", b"x"), ("a/Thumbs.db", b"x")])
    assert entries(tmp_path) == {f"./{key}": ("1", "") for key in ("0", "1", "a/0", "a/1")}


SAMPLE = (("png", png(0)), ("cls", b"1"))


def test_paths_and_links_in_tars_lead_nowhere(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("/etc/0.png", png(0)), ("../../1.png", png(1))])
    with tarfile.open(tmp_path / "a.tar", "a") as archive:
        for name, kind in (("l.png", tarfile.SYMTYPE), ("h.png", tarfile.LNKTYPE), ("d.png", tarfile.CHRTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    assert entries(tmp_path) == {"/etc/0": (None, ""), "../../1": (None, "")}


# -- bombs -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_value_that_many_rows_name_is_decoded_for_a_few_at_a_time(tmp_path: Path) -> None:
    rows = pa.array(["a" * 4_000_000] * 300, pa.large_string())
    pq.write_table(pa.table({"text": rows}), tmp_path / "a.parquet", compression="zstd")
    assert (tmp_path / "a.parquet").stat().st_size < 10_000
    with opened(_here(tmp_path)) as file:
        parts = [(at, part.num_rows) for at, part in parts_of(file, 0, ["text"], 10, 290, _here(tmp_path))]
    assert max(rows for _, rows in parts) <= (128 << 20) // 4_000_000
    assert [at for at, _ in parts] == [10 + sum(rows for _, rows in parts[:i]) for i in range(len(parts))]
    assert sum(rows for _, rows in parts) == 280


def test_rows_of_usual_columns_are_decoded_as_before(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    table = pa.table({"image": [generator.bytes(3000) for _ in range(600)], "label": [i % 3 for i in range(600)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=400)
    with opened(_here(tmp_path)) as file:
        parts = list(parts_of(file, 0, ["image", "label"], 0, 400, _here(tmp_path)))
        assert [(at, part.num_rows) for at, part in parts] == [(0, 256), (256, 144)]
        assert pa.concat_tables(part for _, part in parts) == table.slice(0, 400).combine_chunks()
        second = list(parts_of(file, 1, ["label"], 50, 60, _here(tmp_path)))
    assert [(at, part.to_pydict()) for at, part in second] == [(50, {"label": [i % 3 for i in range(450, 460)]})]


@pytest.mark.slow  # it makes a column of 1.1 GB
def test_a_column_that_decompresses_out_of_proportion_is_refused(tmp_path: Path) -> None:
    table = pa.table({"image": pa.array([bytes(1 << 20)] * 1100)})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd", use_dictionary=False)
    error = refusal(tmp_path)
    assert "column 'image' decompresses from" in error.cause and "row groups" in error.remedy


def test_a_dimension_beyond_reason_is_refused_before_any_row_is_read(tmp_path: Path) -> None:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(1 << 21, np.float32)), 1 << 21)
    pq.write_table(pa.table({"v": vectors}), tmp_path / "a.parquet", compression="zstd")
    error = refusal(tmp_path, vector_column="v")
    assert "vectors of 2097152 numbers, need 1048576 or fewer" in error.cause


def _here(folder: Path) -> Location:
    return Location.parse(folder / "a.parquet")


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"PAR1" * 4])
def test_damaged_parquet_is_named(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    pq.write_table(pa.table({"image": [png(0)]}), tmp_path / "a.parquet")
    (tmp_path / "a.parquet").write_bytes(damage((tmp_path / "a.parquet").read_bytes()))
    assert "a.parquet" in refusal(tmp_path).cause
