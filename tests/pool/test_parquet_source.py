"""Texts, vectors and Hugging Face; images, labels and keys are in test_sources.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coevo_ray.config import Source
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pool.entries import Entry, SourceShard
from coevo_ray.pool.sources import list_source, read_keys, read_shard
from tests.pool.pictures import picture, png, write_parquet


def shards_of(uri: Path, shard_rows: int = 3, **options: Any) -> list[SourceShard]:
    return list_source(Source(uri=str(uri), **options), shard_rows).shards


def entries(uri: Path, shard_rows: int = 3, **options: Any) -> list[Entry]:
    shards = shards_of(uri, shard_rows, **options)
    result = [entry for shard in shards for entry in read_shard(shard)]
    assert [e.key for e in result] == [key for shard in shards for key in read_keys(shard)]
    return result


# -- texts -----------------------------------------------------------------------------------------------------------


def test_texts_are_kept_and_empty_ones_are_not(tmp_path: Path) -> None:
    texts = ["one", None, "", " \n", "zwei \N{SNOWMAN}"]
    write_parquet(tmp_path / "a.parquet", body=texts, label=[0, 1, 2, 3, 4], image=[png(0)] * 5)
    first, *bad, last = entries(tmp_path, text_column="body")
    assert first == Entry("a.parquet:0", "one", 0)
    assert last == Entry("a.parquet:4", "zwei \N{SNOWMAN}", 4)
    assert [e.error for e in bad] == ["empty text in column body"] * 3
    assert last.content == "zwei \N{SNOWMAN}".encode()


def test_a_text_column_of_something_else_says_what_it_has(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", body=[3])
    assert entries(tmp_path, text_column="body")[0].error == "no text in column body (have int)"
    with pytest.raises(InputError, match="no column 'title'") as caught:
        entries(tmp_path, text_column="title")
    assert caught.value.remedy == "set text_column of the source to one of them"


def test_texts_and_vectors_are_not_looked_for_in_an_image_folder(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(0))
    for setting in ({"text_column": "t"}, {"feature_columns": ["v"]}):
        with pytest.raises(UsageError, match=f"{next(iter(setting))} is set and .* holds no Parquet"):
            entries(tmp_path, **setting)


# -- vectors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.float16(), 3), pa.list_(pa.int8(), 3)],
    ids=str,
)
def test_vectors_of_any_number_type_become_float32(tmp_path: Path, kind: pa.DataType) -> None:
    rows = [np.array([i, 2, 3], np.float16) for i in range(5)]
    column = pa.array([r.tolist() for r in rows], pa.list_(pa.float64())).cast(pa.list_(kind.value_type))
    column = column.cast(kind)
    write_parquet(tmp_path / "a.parquet", image=[png(i) for i in range(5)], v=column)
    read = entries(tmp_path, feature_columns=["v"])
    assert shards_of(tmp_path, feature_columns=["v"])[0].reading.features == (("v", 3),)
    for entry, row in zip(read, rows, strict=True):
        assert entry.error == ""
        (vector,) = entry.features
        assert vector.dtype == np.float32
        assert vector.tolist() == row.tolist()


def test_vectors_that_do_not_fit_are_rejected_with_their_reason(tmp_path: Path) -> None:
    vectors = [[1.0], [1.0, 2.0], [3.0, 4.0], None, [1.0, None], [1.0, float("nan")], [1e300, 0.0], []]
    write_parquet(tmp_path / "a.parquet", image=[png(i) for i in range(8)], v=vectors)
    assert [e.error for e in entries(tmp_path, feature_columns=["v"])] == [
        "wrong length in column v: 1 values, need 2",
        "",
        "",
        "no vector in column v",
        *["values that are not finite in float32 in column v"] * 3,
        "wrong length in column v: 0 values, need 2",
    ]


def test_columns_that_hold_no_vectors_or_several_dimensions_are_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a" / "1.parquet", image=[png(0)], v=pa.array([[]], pa.list_(pa.float32())), word=["x"])
    with pytest.raises(InputError, match="'v' holds no vectors"):
        shards_of(tmp_path / "a", feature_columns=["v"])
    with pytest.raises(InputError, match=r"'word' of .* is string, no list of numbers"):
        shards_of(tmp_path / "a", feature_columns=["word"])
    with pytest.raises(InputError, match="no column 'w'"):
        shards_of(tmp_path / "a", feature_columns=["w"])
    for name, d in (("1", 2), ("2", 4), ("3", 2)):
        column = pa.array([[0.0] * d], pa.list_(pa.float32(), d))
        write_parquet(tmp_path / "b" / f"{name}.parquet", image=[png(0)], v=column)
    with pytest.raises(InputError, match=r"different dimensions: 2 in 1\.parquet, 4 in 2\.parquet"):
        shards_of(tmp_path / "b", feature_columns=["v"])


# -- Hugging Face ----------------------------------------------------------------------------------------------------

NAMES = ["zebra", "ant", "cat"]


def hub_dataset(start: int, rows: int) -> datasets.Dataset:
    features = datasets.Features({"img": datasets.Image(), "kind": datasets.ClassLabel(names=NAMES)})
    content = {"img": [picture(start + i) for i in range(rows)], "kind": [(start + i) % 3 for i in range(rows)]}
    return datasets.Dataset.from_dict(content, features=features)


def test_what_the_datasets_package_writes_is_understood(tmp_path: Path) -> None:
    for split, start, rows in (("train", 0, 4), ("validation", 10, 2), ("test", 20, 3)):
        hub_dataset(start, rows).to_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    for name in ("auto", "huggingface"):
        shards = shards_of(tmp_path, 3, format=name)
        assert {s.classes for s in shards} == {tuple(NAMES)}
        # Listed by name: test, train, validation; validation is training data where there is a test split.
        assert [(s.split, s.rows) for s in shards] == [("test", 3), ("train", 3), ("train", 1), ("train", 2)]
    read = entries(tmp_path)
    assert [e.label for e in read] == [20 % 3, 21 % 3, 22 % 3, 0, 1, 2, 0, 1, 2]
    assert [e.error for e in read] == [""] * 9
    plain = pq.read_table(tmp_path / "data" / "test-00000-of-00001.parquet").column("img").to_pylist()
    assert [e.sample for e in read[:3]] == [value["bytes"] for value in plain]
    assert {s.split for s in shards_of(tmp_path, split="test")} == {"test"}


def hub_file(file: Path, features: dict[str, Any] | None = None, **columns: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    content = {"info": {"features": features or {"image": {"_type": "Image"}}}}
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(content)}), file)


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train/0.parquet", "test/0.parquet"], ["test", "train"]),
        (["train.parquet", "valid.parquet"], ["train", "test"]),
        (["dev-0001.parquet", "other.parquet"], ["test", None]),
        (["my_eval_1.parquet", "training_1.parquet", "val.parquet"], ["test", "train", "train"]),
        (["testify.parquet", "trains.parquet"], [None, None]),
        (["train/test-0.parquet"], ["train"]),  # the folder counts first
    ],
)
def test_splits_by_folder_and_file_name(tmp_path: Path, names: list[str], splits: list[str | None]) -> None:
    for name in names:
        hub_file(tmp_path / name, image=[png(0)])
    assert [s.split for s in shards_of(tmp_path)] == splits


def test_without_the_metadata_it_is_plain_parquet(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", image=[png(0)])
    write_parquet(tmp_path / "test.parquet", image=[png(0)])
    assert [s.split for s in shards_of(tmp_path)] == [None, None]
    with pytest.raises(InputError, match="no metadata of Hugging Face"):
        shards_of(tmp_path, format="huggingface")
    hub_file(tmp_path / "test.parquet", image=[png(0)])
    assert [s.split for s in shards_of(tmp_path, format="parquet")] == [None, None]


def test_labels_of_minus_one_are_missing_and_others_outside_the_names_are_rejected(tmp_path: Path) -> None:
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["a", "b"]}}
    hub_file(tmp_path / "x.parquet", features, image=[png(i) for i in range(4)], label=[1, -1, 2, None])
    read = entries(tmp_path)
    assert [e.label for e in read] == [1, None, None, None]
    assert [e.error for e in read] == ["", "", "label outside the range: 2, need 0..1", ""]


def test_columns_that_were_named_win_over_the_metadata(tmp_path: Path) -> None:
    features = {
        "left": {"_type": "Image"},
        "fine": {"_type": "ClassLabel", "names": ["a", "b"]},
        "coarse": {"_type": "ClassLabel", "names": ["c"]},
    }
    hub_file(tmp_path / "x.parquet", features, left=[png(0)], right=[png(1)], fine=[1], coarse=[0], n=[7])
    assert entries(tmp_path) == [Entry("x.parquet:0", png(0), None)]  # two kinds of classes: neither is guessed
    assert entries(tmp_path, image_column="right", label_column="n") == [Entry("x.parquet:0", png(1), 7)]
    assert shards_of(tmp_path, label_column="coarse")[0].classes == ("c",)


@pytest.mark.parametrize("metadata", [b"", b"[]", b'{"info": 3}', b'{"info": {"features": []}}', b"\xff"])
def test_damaged_metadata_is_none(tmp_path: Path, metadata: bytes) -> None:
    table = pa.table({"image": [png(0)]}).replace_schema_metadata({b"huggingface": metadata})
    pq.write_table(table, tmp_path / "train.parquet")
    assert [s.split for s in shards_of(tmp_path)] == [None]
