"""Inputs after public bug reports of people who do this work: what is data, what it means, what is said of the rest."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from coevo_ray.config import GateSettings
from coevo_ray.config.base import make_config
from coevo_ray.errors import InputError
from coevo_ray.pipelines.gate.opened import class_names
from coevo_ray.pipelines.ingest.ingest import ingest
from coevo_ray.pool.pool import Pool
from tests.pipelines.ingest.helpers import reasons, rows, snapshot
from tests.pool.pictures import encoded, picture, png, write_images, write_parquet, write_tar

pytestmark = pytest.mark.usefixtures("ray_local")


def pool_of(source: Path, out: Path, **options: Any) -> Pool:
    of_pool: dict[str, Any] = {
        name: options.pop(name) for name in ("max_reject_fraction", "classes") if name in options
    }
    return ingest({"sources": [{"uri": str(source), **options}], "test_fraction": 0, **of_pool}, out)


def labels(pool: Pool) -> dict[str, int | None]:
    return {key: label for key, _, label, _ in rows(pool).values()}


def named(pool: Pool) -> dict[str, str | None]:
    """Key -> name of its class."""
    names = pool.manifest.summary["class_names"]
    return {key: None if label is None else names[label] for key, label in labels(pool).items()}


# -- folders ---------------------------------------------------------------------------------------------------------


def test_hidden_names_are_no_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Checkpoints of notebooks (pytorch/vision#2831), what a Mac zips (Pillow#4807), logs of Delta, Windows' caches."""
    data = {f"{c}/{i}.png": png(ord(c[0]) + i) for c in ("cat", "dog") for i in range(4)}
    twins = {f"__MACOSX/{name}": b"\0\5\x16\7" for name in data} | {"cat/._0.png": b"\0\5\x16\7"}
    junk = {".ipynb_checkpoints/0.png": png(99), "_delta_log/x.png": png(98), "Thumbs.db": b"x", "dog/.DS_Store": b"x"}
    photographs = {"dog/_DSC0001.JPG": encoded(picture(50), "JPEG")}
    write_images(tmp_path / "data", data | twins | junk | photographs)
    pool = pool_of(tmp_path / "data", tmp_path / "pool")
    expected = {name: name.split("/")[0] for name in data} | {"dog/_DSC0001.JPG": "dog"}
    assert named(pool) == expected
    assert pool.manifest.summary["left_out"] == {"hidden": 6}
    assert pool.manifest.summary["class_rows"] == {"0": 4, "1": 5}
    told = capsys.readouterr().err
    assert "passed over 6 files and folders with hidden names (first: .ipynb_checkpoints/)" in told
    assert "2 classes (dog: 5, cat: 4); 0 rows without a label; 9 rows to train on, 0 held out" in told


def test_split_folders_are_no_classes(tmp_path: Path) -> None:
    files = {
        f"{s}/{c}/{i}.png": png(hash_of(s, c, i)) for s in ("train", "test") for c in ("cat", "dog") for i in range(3)
    }
    write_images(tmp_path / "classes", files)
    pool = pool_of(tmp_path / "classes", tmp_path / "pool")
    assert named(pool) == {name: name.split("/")[1] for name in files}
    assert {key: split for key, _, _, split in rows(pool).values()} == {n: int(n.startswith("test")) for n in files}
    plain = {f"{s}/{i}.png": png(hash_of(s, "", i)) for s in ("train", "test") for i in range(3)}
    write_images(tmp_path / "plain", plain)
    pool = pool_of(tmp_path / "plain", tmp_path / "pool2")
    assert set(labels(pool).values()) == {None}
    assert pool.manifest.summary["class_names"] == []
    assert {key: split for key, _, _, split in rows(pool).values()} == {n: int(n.startswith("test")) for n in plain}


def hash_of(split: str, name: str, i: int) -> int:
    return {"train": 0, "test": 100}[split] + {"": 0, "cat": 30, "dog": 60}[name] + i


def test_a_pool_inside_its_source_is_no_part_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_parquet(tmp_path / "data" / "a.parquet", image=[png(i) for i in range(6)], label=[0, 1] * 3)
    first = pool_of(tmp_path / "data", tmp_path / "data" / "pool")
    (tmp_path / "data" / "begun").mkdir()
    (tmp_path / "data" / "begun" / "_started.json").write_text('{"kind": "pool", "config": {}, "inputs": {}}')
    (tmp_path / "data" / "begun" / "rows-000000.parquet").write_bytes(b"half")
    second = pool_of(tmp_path / "data", tmp_path / "data" / "pool2")
    assert rows(second) == rows(first)
    assert len(second) == 6
    assert "passed over 3 artifacts of coevo-ray (first: begun/)" in capsys.readouterr().err


def test_classes_that_differ_in_case_alone_are_told_and_long_names_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(
        tmp_path / "data",
        {f"{c}/{i}.png": png(10 * k + i) for k, c in enumerate(("Cat", "cat", "dog")) for i in (0, 1)},
    )
    pool = pool_of(tmp_path / "data", tmp_path / "pool")
    assert pool.manifest.summary["class_rows"] == {"0": 2, "1": 2, "2": 2}
    assert "1 classes differ from another one in case alone, such as 'Cat' and 'cat'" in capsys.readouterr().err
    table = {"image": [png(i) for i in range(4)], "label": ["x" * 100_000, "y"] * 2}
    (tmp_path / "long").mkdir()
    pq.write_table(pa.table(table), tmp_path / "long" / "a.parquet")
    pool_of(tmp_path / "long", tmp_path / "pool2")
    told = capsys.readouterr().err
    assert "2 classes (" in told and "case alone" not in told and len(told) < 5000


def test_ids_that_pass_for_classes_are_told_and_open_no_gate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_parquet(tmp_path / "a.parquet", image=[png(i) for i in range(4)], label=[0, 1, 10**9, 10**9])
    pool = pool_of(tmp_path / "a.parquet", tmp_path / "pool")
    assert "labels run up to 1,000,000,000, and 3 of these numbers occur" in capsys.readouterr().err
    with pytest.raises(InputError, match="run up to 1,000,000,000, need 65,536 classes or fewer"):
        class_names(make_config(GateSettings, {}, "gate"), pool)


def test_without_a_label_column_folders_are_no_classes(tmp_path: Path) -> None:
    write_images(tmp_path / "data", {f"{c}/{i}.png": png(ord(c) + i) for c in "ab" for i in range(3)})
    pool = pool_of(tmp_path / "data", tmp_path / "pool", label_column=None)
    assert set(labels(pool).values()) == {None}


def test_folders_of_columns_give_labels(tmp_path: Path) -> None:
    """Hive partitions (ray#40227): the label is in the folder's name only."""
    table = pa.table({"image": [png(i) for i in range(15)], "label": [i % 3 for i in range(15)]})
    pq.write_to_dataset(table, tmp_path / "numbers", partition_cols=["label"])
    pool = pool_of(tmp_path / "numbers", tmp_path / "pool", label_column="label")
    assert {key: int(key[6]) for key in labels(pool)} == labels(pool)
    names = pa.table({"image": [png(i) for i in range(6)], "label": ["cat", "dog", "ox"] * 2})
    pq.write_to_dataset(names, tmp_path / "names", partition_cols=["label"])
    pool = pool_of(tmp_path / "names", tmp_path / "pool2")
    assert {key: key.split("/")[0].removeprefix("label=") for key in labels(pool)} == named(pool)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_metadata_as_the_hub_documents_it(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "data", {f"train/{i}.png": png(i) for i in range(3)} | {"test/sub/0.png": png(9)})
    for split, lines in (
        ("train", [("0.png", "cat"), ("1.png", "dog"), ("gone.png", "dog")]),
        ("test", [("sub/0.png", "cat")]),
    ):
        text = "file_name,label\n" + "".join(f"{name},{label}\n" for name, label in lines)
        if kind == "jsonl":
            text = "".join(json.dumps({"file_name": name, "label": label}) + "\n" for name, label in lines)
        (tmp_path / "data" / split / f"metadata.{kind}").write_text(text)
    pool = pool_of(tmp_path / "data", tmp_path / "pool")
    assert named(pool) == {"test/sub/0.png": "cat", "train/0.png": "cat", "train/1.png": "dog", "train/2.png": None}
    told = capsys.readouterr().err
    assert "3 of 4 images are named there" in told
    assert "1 rows of" in told
    assert "name images that are not there (first: train/gone.png)" in told


# -- files -----------------------------------------------------------------------------------------------------------


def test_what_pillow_reads_is_read_and_the_rest_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Photos of a phone (cvat#8579), names without an ending (img2dataset)."""
    image = picture(3)
    files = {f"{i}.jpg": encoded(picture(i), "JPEG") for i in range(4)}
    files |= {"a.jfif": encoded(image, "JPEG"), "b.jpe": encoded(image, "JPEG"), "c": encoded(image, "PNG")}
    files |= {"d.avif": encoded(image, "AVIF"), "e.jp2": encoded(image, "JPEG2000"), "f.heic": bytes(64)}
    write_images(tmp_path / "data", files | {"notes.txt": b"x", "more/labels.csv": b"x"})
    pool = pool_of(tmp_path / "data", tmp_path / "pool", max_reject_fraction=0.2)
    assert set(labels(pool)) == set(files) - {"f.heic"}
    assert [key for key, _ in reasons(pool)] == ["f.heic"]
    assert pool.manifest.summary["left_out"] == {".txt": 1, ".csv": 1}
    assert "files that are not read: 1 x .csv, 1 x .txt" in capsys.readouterr().err.replace(
        "1 x .txt, 1 x .csv", "1 x .csv, 1 x .txt"
    )


def test_a_source_that_grew_is_noticed_and_its_new_files_are_appended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(
        tmp_path / "data", {f"{c}/{i}.png": png(ord(c) + i) for c in "ab" for i in range(3)} | {"a/x.png": b"bad"}
    )
    options = {"max_reject_fraction": 0.5}
    before = pool_of(tmp_path / "data", tmp_path / "pool", **options)
    old, files = rows(before), snapshot(tmp_path / "pool")
    write_images(tmp_path / "data", {f"{c}/{i}.png": png(50 + ord(c) + i) for c in "ab" for i in range(3, 5)})
    pool_of(tmp_path / "data", tmp_path / "pool", **options)
    assert (
        f"{tmp_path}/data has 4 files more than when the pool was made: --append takes them" in capsys.readouterr().err
    )
    source = {"sources": [str(tmp_path / "data")]}
    grown = ingest(source, tmp_path / "pool", append=True)
    assert {i: row for i, row in rows(grown).items() if i < 6} == old
    assert [row[0] for i, row in rows(grown).items() if i >= 6] == ["a/3.png", "a/4.png", "b/3.png", "b/4.png"]
    assert reasons(grown) == [("a/x.png", "not an image that Pillow can read (3 bytes)")]  # told once
    assert [s["uri"] for s in grown.manifest.config["sources"]] == [str(tmp_path / "data")]
    assert {
        name: content
        for name, content in snapshot(tmp_path / "pool").items()
        if name in files and name != "manifest.json"
    } == {name: content for name, content in files.items() if name != "manifest.json"}
    capsys.readouterr()
    after = snapshot(tmp_path / "pool")
    ingest(source, tmp_path / "pool", append=True)
    assert snapshot(tmp_path / "pool") == after
    told = capsys.readouterr().err
    assert "10 samples of" in told
    assert "nothing was appended" in told


@pytest.mark.slow
def test_parquet_and_tars_that_grew(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data" / "a.parquet", image=[png(i) for i in range(4)], id=list("abcd"))
    write_tar(tmp_path / "tars" / "a.tar", [(f"{i}.png", png(10 + i)) for i in range(3)])
    for folder, settings in (("data", {"key_column": "id"}), ("tars", {})):
        pool_of(tmp_path / folder, tmp_path / f"pool-{folder}", **settings)
    write_parquet(tmp_path / "data" / "b.parquet", image=[png(30 + i) for i in range(4)], id=list("cdef"))
    write_tar(tmp_path / "tars" / "b.tar", [(f"{i}.png", png(40 + i)) for i in range(2, 5)])
    for folder, settings, keys in (("data", {"key_column": "id"}, "abcdef"), ("tars", {}, "01234")):
        config = {"sources": [{"uri": str(tmp_path / folder), **settings}]}
        pool = ingest(config, tmp_path / f"pool-{folder}", append=True)
        assert [row[0] for row in rows(pool).values()] == list(keys)
        assert pool.manifest.summary["rejected"] == 0


def test_sources_that_were_told_apart_stay_so_when_one_grows(tmp_path: Path) -> None:
    for name, start in (("x", 0), ("y", 20)):
        write_images(tmp_path / name, {f"{i}.png": png(start + i) for i in range(3)})
    both = {"sources": [str(tmp_path / "x"), str(tmp_path / "y")]}
    ingest(both, tmp_path / "pool")
    write_images(tmp_path / "y", {"9.png": png(99)})
    pool = ingest({"sources": [str(tmp_path / "y")]}, tmp_path / "pool", append=True)
    assert [row[0] for row in rows(pool).values()] == [*(f"{s}/{i}.png" for s in "xy" for i in range(3)), "y/9.png"]


def test_a_source_without_new_samples_keeps_its_prefix(tmp_path: Path) -> None:
    for name, start in (("x", 0), ("y", 20)):
        write_images(tmp_path / name, {f"{i}.png": png(start + i) for i in range(3)})
    both = {"sources": [str(tmp_path / "x"), str(tmp_path / "y")]}
    ingest(both, tmp_path / "pool")
    write_images(tmp_path / "y", {"9.png": png(99)})
    assert len(ingest(both, tmp_path / "pool", append=True)) == 7  # of x nothing is new
    assert len(ingest(both, tmp_path / "pool", append=True)) == 7


def test_a_dataset_of_the_same_name_is_known_by_its_positions(tmp_path: Path) -> None:
    config = {"sources": ["dataset:mine"]}
    ingest(config, tmp_path / "pool", dataset=ray.data.from_items([{"image": png(i)} for i in range(3)]))
    grown = ray.data.from_items([{"image": png(i)} for i in range(5)])
    pool = ingest(config, tmp_path / "pool", dataset=grown, append=True)
    assert [row[0] for row in rows(pool).values()] == [f"mine:{i}" for i in range(5)]


def test_new_samples_that_are_all_rejected_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "data", {f"{i}.png": png(i) for i in range(3)})
    pool_of(tmp_path / "data", tmp_path / "pool")
    write_images(tmp_path / "data", {"x.png": b"bad"})
    config = {"sources": [str(tmp_path / "data")], "max_reject_fraction": 1}
    assert len(ingest(config, tmp_path / "pool", append=True)) == 3
    told = capsys.readouterr().err
    assert "nothing was appended; 1 x not an image that Pillow can read (key x.png" in told


def test_keys_that_the_pool_has_are_told_apart_by_a_prefix(tmp_path: Path) -> None:
    for name, start in (("x", 0), ("y", 20)):
        write_images(tmp_path / name, {f"{i}.png": png(start + i) for i in range(3)})
    ingest({"sources": [str(tmp_path / "x")]}, tmp_path / "pool")
    with pytest.raises(InputError, match="3 x duplicate key") as caught:
        ingest({"sources": [str(tmp_path / "y")]}, tmp_path / "pool", append=True)
    assert "--key-prefix" in caught.value.remedy
    pool = ingest({"sources": [{"uri": str(tmp_path / "y"), "key_prefix": "y/"}]}, tmp_path / "pool", append=True)
    assert len(pool) == 6


# -- columns ---------------------------------------------------------------------------------------------------------

COUNT = 6
BY_TYPE: dict[str, tuple[pa.Array, list[int | str | None]]] = {
    "names": (pa.array(["dog", "cat"] * 3), ["dog", "cat"] * 3),
    "dictionary": (pa.array(["dog", "cat"] * 3).dictionary_encode(), ["dog", "cat"] * 3),
    "bytes": (pa.array([b"dog", b"cat"] * 3), ["dog", "cat"] * 3),
    "view": (pa.array(["dog", "cat"] * 3, pa.string_view()), ["dog", "cat"] * 3),
    "numbers and names": (pa.array(["3", "cat"] * 3), ["3", "cat"] * 3),
    "bool": (pa.array([True, False] * 3), [1, 0] * 3),
    "decimal": (pa.array([Decimal(2), Decimal(0)] * 3, pa.decimal128(4, 0)), [2, 0] * 3),
    "float": (pa.array([2.0, None] * 3), [2, None] * 3),
    "text": (pa.array(["2", "", "-1"] * 2), [2, None, None] * 2),
    "minus": (pa.array([-1, 1, 0] * 2), [None, 1, 0] * 2),
    "list": (pa.array([[1], [0]] * 3), [1, 0] * 3),
    "null": (pa.nulls(COUNT), [None] * COUNT),
}


@pytest.mark.parametrize("kind", BY_TYPE)
def test_labels_as_tables_have_them(kind: str, tmp_path: Path) -> None:
    column, expected = BY_TYPE[kind]
    write_parquet(tmp_path / "a.parquet", image=[png(i) for i in range(COUNT)], label=column)
    pool = pool_of(tmp_path / "a.parquet", tmp_path / "pool")
    read = named(pool) if pool.manifest.summary["class_names"] else labels(pool)
    assert list(read.values()) == expected
    if isinstance(expected[0], str):
        assert pool.manifest.summary["class_names"] == sorted(str(name) for name in set(expected))
        assert pool.classes == len(set(expected))


def test_names_and_numbers_of_two_files_are_not_mixed(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a" / "a.parquet", image=[png(0)], label=["cat"])
    write_parquet(tmp_path / "a" / "b.parquet", image=[png(1)], label=[0])
    with pytest.raises(InputError, match=r"labels are names such as \['cat'\] in .*, and numbers in"):
        pool_of(tmp_path / "a", tmp_path / "pool")


def test_names_of_an_append_must_be_those_of_the_pool(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", image=[png(0), png(1)], label=["dog", "cat"])
    write_parquet(tmp_path / "b.parquet", image=[png(2)], label=["cat"])
    write_parquet(tmp_path / "c.parquet", image=[png(3)], label=["ox"])
    pool_of(tmp_path / "a.parquet", tmp_path / "pool")
    pool = ingest({"sources": [str(tmp_path / "b.parquet")]}, tmp_path / "pool", append=True)
    assert list(named(pool).values()) == ["dog", "cat", "cat"]
    with pytest.raises(InputError, match=r"labels \['ox'\] are not classes; the pool has \['cat', 'dog'\]"):
        ingest({"sources": [str(tmp_path / "c.parquet")]}, tmp_path / "pool", append=True)
    write_parquet(tmp_path / "n.parquet", image=[png(4)], label=[0])
    pool_of(tmp_path / "n.parquet", tmp_path / "numbers")
    with pytest.raises(InputError, match="the pool's labels are numbers without names"):
        ingest({"sources": [str(tmp_path / "a.parquet")]}, tmp_path / "numbers", append=True)


def test_texts_that_are_no_classes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from coevo_ray.pipelines.ingest import classes

    monkeypatch.setattr(classes, "_MOST_NAMES", 3)
    write_parquet(tmp_path / "a.parquet", image=[png(i) for i in range(4)], label=[f"a caption {i}" for i in range(4)])
    with pytest.raises(InputError, match="has 4 different texts, need 3 or fewer classes") as caught:
        pool_of(tmp_path / "a.parquet", tmp_path / "pool")
    assert "--label-column" in caught.value.remedy


VECTORS = np.arange(80.0).reshape(20, 4)


def vector_columns() -> dict[str, pa.Array]:
    flat = pa.array(VECTORS.ravel())
    fixed = pa.FixedSizeListArray.from_arrays(flat, 4)
    return {
        "half": pa.array([row.astype(np.float16) for row in VECTORS], pa.list_(pa.float16())),
        "large": pa.array(VECTORS.tolist(), pa.large_list(pa.float32())),
        "fixed": fixed,
        "decimal": pa.array([[Decimal(f"{v:.1f}") for v in row] for row in VECTORS], pa.list_(pa.decimal128(10, 3))),
        "tensor": pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float64(), (4,)), fixed),
    }


@pytest.mark.parametrize("kind", [*vector_columns(), "ray"])
def test_vectors_as_others_write_them(kind: str, tmp_path: Path) -> None:
    """Tensor columns of Ray Data's own `write_parquet` (ray#50506), Arrow's tensors, lists of every number."""
    images = pa.array([png(i) for i in range(20)])
    if kind == "ray":
        made = ray.data.from_arrow(pa.table({"image": images, "i": pa.array(range(20))}))
        made.map_batches(lambda b: {"image": b["image"], "emb": VECTORS[b["i"]]}, batch_format="numpy").write_parquet(
            str(tmp_path / "data")
        )
    else:
        write_parquet(tmp_path / "data" / "a.parquet", image=images, emb=vector_columns()[kind])
    pool = pool_of(tmp_path / "data", tmp_path / "pool", feature_columns=["emb"])
    assert pool.features == {"emb": 4}
    assert np.array_equal(np.array(pool.scan(["emb"]).column("emb").to_pylist()), VECTORS)


def test_files_of_one_folder_may_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty first file of null columns (ray#62975), a file without labels, labels as floats, any order."""
    emb = [[float(i), 1.0] for i in range(6)]
    write_parquet(tmp_path / "empty" / "a.parquet", image=pa.nulls(0), emb=pa.nulls(0), label=pa.nulls(0))
    write_parquet(tmp_path / "empty" / "b.parquet", image=[png(i) for i in range(6)], emb=emb, label=[0, 1] * 3)
    pool = pool_of(tmp_path / "empty", tmp_path / "pool", feature_columns=["emb"])
    assert list(labels(pool).values()) == [0, 1] * 3
    assert pool.features == {"emb": 2}
    write_parquet(tmp_path / "two" / "a.parquet", image=[png(i) for i in range(6)], label=[0, 1] * 3)
    write_parquet(tmp_path / "two" / "b.parquet", label=[0.0, 1.0], image=[png(10), png(11)])
    write_parquet(tmp_path / "two" / "c.parquet", image=[png(20)])
    pool = pool_of(tmp_path / "two", tmp_path / "pool2")
    assert list(labels(pool).values()) == [0, 1] * 4 + [None]
    assert "no column 'label' in 1 of 3 files (first: c.parquet): no labels" in capsys.readouterr().err


def test_images_that_are_only_named_are_read_from_beside_the_table(tmp_path: Path) -> None:
    """Hugging Face's `{bytes: null, path}` (datasets: `to_parquet` without embedding); never a file elsewhere."""
    write_images(tmp_path / "data" / "img", {"0.png": png(0)})
    write_images(tmp_path, {"outside.png": png(5)})
    paths = ["img/0.png", "../outside.png", str(tmp_path / "outside.png"), "img/gone.png"]
    cells = [{"bytes": None, "path": path} for path in paths]
    write_parquet(tmp_path / "data" / "a.parquet", image=cells, label=[0, 1, 0, 1])
    pool = pool_of(tmp_path / "data", tmp_path / "pool", format="parquet", max_reject_fraction=1)
    assert [row[1] for row in rows(pool).values()] == [png(0)]
    assert all("only a path in column image" in reason for _, reason in reasons(pool))
    with pytest.raises(InputError, match="only a path in column") as caught:
        pool_of(tmp_path / "data", tmp_path / "pool2", format="parquet")
    assert "embed_table_storage" in caught.value.remedy


def test_lists_of_images_are_called_so(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", images=[[png(0), png(1)], [png(2)]])
    with pytest.raises(InputError, match="1 x 2 images in column images") as caught:
        pool_of(tmp_path / "a.parquet", tmp_path / "pool", image_column="images")
    assert caught.value.remedy.startswith("give one image per row")
    pool = pool_of(tmp_path / "a.parquet", tmp_path / "pool", image_column="images", max_reject_fraction=0.5)
    assert [row[1] for row in rows(pool).values()] == [png(2)]


def test_texts_in_binary_columns_are_texts(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", body=[b"one", "zw\u00f6lf".encode(), b"\xff"], label=["x", "y", "x"])
    pool = pool_of(tmp_path / "a.parquet", tmp_path / "pool", text_column="body", max_reject_fraction=0.5)
    assert [row[1] for row in rows(pool).values()] == ["one", "zw\u00f6lf"]
    assert reasons(pool) == [("a.parquet:2", "text that is not UTF-8 in column body")]


def test_names_of_classes_in_tars(tmp_path: Path) -> None:
    members = [(f"{i}.png", png(i)) for i in range(4)] + [
        (f"{i}.cls", name) for i, name in enumerate([b"ox", b"cat", b"ox\n", b"3"])
    ]
    write_tar(tmp_path / "a.tar", members)
    assert list(named(pool_of(tmp_path / "a.tar", tmp_path / "pool")).values()) == ["ox", "cat", "ox", "3"]
